"""The page of the app, built with Gradio. It loads nothing from other hosts, and sends nothing anywhere."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from handdata.errors import UserError
from handtrain.app import hands
from handtrain.app.drawing import FREE, OWN_POSE, Drawing
from handtrain.app.rows import Rows

if TYPE_CHECKING:  # needs diffusers; judging does not
    from handtrain.app.models import Models

# of the answer to every request: the browser itself refuses to load from another host
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:"
)
_SHOWN: dict[str, Any] = {"interactive": False, "buttons": ["download", "fullscreen"]}  # not: share on the Hub
_SCENE = "a hand with light skin and a blue sleeve in front of a grey wall"  # in the words of the mini model
_FONT = ["system-ui", "sans-serif"]


def serve(models: "Models | None", rows: Rows | None, host: str, port: int, show: bool) -> None:
    """Serve the page until the process is stopped. Raises `UserError` without Gradio, or if the port is taken."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
        from starlette.middleware import Middleware
    except ImportError:
        raise UserError("the app needs Gradio: pip install 'hand1000[app]'") from None
    theme = gradio.themes.Default(font=_FONT, font_mono=["ui-monospace", "monospace"])
    try:
        build(models, rows).launch(
            server_name=host, server_port=port, inbrowser=show, share=False, theme=theme, footer_links=[],
            app_kwargs={"middleware": [Middleware(_OnlyFromHere)]}, enable_monitoring=False,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--port {port} cannot be used ({error}): choose another one") from None


def build(models: "Models | None", rows: Rows | None) -> Any:
    """Return the page as Gradio's blocks, with a tab for each thing that there is."""
    import gradio

    with gradio.Blocks(title="hand1000", analytics_enabled=False) as page:
        gradio.Markdown("# hand1000")
        if models is not None:
            with gradio.Tab("Generate"):
                _generate(gradio, models)
        with gradio.Tab("Judge a picture"):
            _judge(gradio)
        if rows is not None:
            with gradio.Tab("Dataset"):
                _browse(gradio, rows)
    return page


def _generate(gradio: Any, models: "Models") -> None:
    phrases = models.phrases
    first = next(iter(phrases))
    with gradio.Row():
        text = gradio.Textbox(_SCENE, label="Scene", lines=2, scale=3)
        gesture = gradio.Dropdown([FREE, *phrases], value=first, label="Gesture")
        seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=2**53 - 1)
    with gradio.Row():
        steps = gradio.Slider(2, 100, 20, step=1, label="Steps")
        guidance = gradio.Slider(1, 12, models.guidance, step=0.5, label="Guidance")
        mu = gradio.Slider(0, 1, models.mu, step=0.05, label="mu (plain text)")
    with gradio.Row(visible=bool(models.poses)):
        with gradio.Column():
            pose = gradio.Dropdown(models.poses or [OWN_POSE], value=OWN_POSE, label="Pose of the hand")
            strength = gradio.Slider(0, 12, 2, step=0.5, label="Guidance towards the pose")
        photograph = _file(gradio, "Or that of a photograph", "pose")
        found = gradio.Image(label="Hand of the photograph", height=220, **_SHOWN)
    photograph.change(_sentences(gradio, lambda path: path and hands.posed(path)), [photograph], [found])
    button = gradio.Button("Generate", variant="primary")
    prompt = gradio.Markdown()
    with gradio.Row():
        before = gradio.Image(label=f"base: {models.base_name}", **_SHOWN)
        after = gradio.Image(label=f"trained: {models.name}", **_SHOWN)

    def draw(text: str, gesture: str, seed: int | None, *values: Any) -> Any:
        if seed is None:
            raise UserError("the seed is empty: give a whole number")
        prompt = with_phrase(text, phrases.get(gesture))
        pictures = models.draw(Drawing(prompt, seed, *values))
        return f"Prompt: *{_plain(prompt)}*", *map(hands.enlarged, pictures)

    values = [seed, steps, guidance, mu, pose, photograph, strength]  # in the order of `Drawing`
    button.click(_sentences(gradio, draw), [text, gesture, *values], [prompt, before, after])


def _judge(gradio: Any) -> None:
    gradio.Markdown(hands.NOTE)
    with gradio.Row():
        file = _file(gradio, "A picture", "judged")
        shown = gradio.Image(label="Its hands", scale=3, **_SHOWN)
    table = gradio.Dataframe(headers=hands.HEAD, interactive=False, label="Hands")

    file.change(_sentences(gradio, lambda path: hands.judged(path) if path else (None, [])), [file], [shown, table])


def _browse(gradio: Any, rows: Rows) -> None:
    with gradio.Row():
        number = gradio.Slider(1, len(rows), 1, step=1, label=f"Row of {len(rows):,} in {rows.name}")
    with gradio.Row():
        picture = gradio.Image(label="Image, boxes and landmarks", **_SHOWN)
        about = gradio.Dataframe(headers=["column", "value"], interactive=False, label="Row", wrap=True,
                                 column_widths=["25%", "75%"])  # fmt: skip
    number.change(lambda n: rows[int(n) - 1], [number], [picture, about])
    gradio.on(fn=lambda: rows[0], outputs=[picture, about])


def _file(gradio: Any, label: str, name: str) -> Any:
    """Return a field for a picture. It passes the path on: our own reader opens the file, within its limits."""
    return gradio.File(label=label, type="filepath", scale=1, height=220, elem_id=name)


def _sentences(gradio: Any, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler whose mistakes of the user appear on the page as sentences."""

    def handler(*values: Any) -> Any:
        try:
            return answer(*values)
        except (ValueError, UserError) as error:
            raise gradio.Error(str(error)) from None

    return handler


def with_phrase(text: str, phrase: str | None) -> str:
    """Return a prompt that names a gesture as the training texts do, once."""
    text = text.strip().rstrip(".,")
    return text if not phrase or phrase in text else f"{text}, {phrase}"


def _plain(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()<>#+-.!|&" else letter for letter in text)


class _OnlyFromHere:
    """Adds the policy to every answer of an ASGI app."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message.get("headers", []), policy]}
            await send(message)

        await self.app(scope, receive, with_policy)
