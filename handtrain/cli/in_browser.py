"""The command `handtrain app`."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class App:
    """Try a model against its base, judge pictures and browse a dataset in the browser.

    No request leaves the machine, and the page is open to this machine only unless --host names another address.
    """

    model: str | None = None  # trained model to draw with: RUN/model, a folder or hf:USER/NAME[@REVISION]
    base: str | None = None  # its base; default: the one that the model names
    dataset: str | None = None  # dataset to browse: hf:USER/NAME[@REVISION], or a folder of `handdata publish`
    split: str = "train"  # split of the dataset
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0 opens the page to the network
    port: int = 7860  # port to listen on
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    open: bool = False  # show the page in a browser

    def __call__(self) -> int:
        from handtrain.app.page import serve
        from handtrain.app.rows import Rows

        if self.host not in ("127.0.0.1", "localhost", "::1"):
            print(f"handtrain: anyone who reaches {self.host} can use this page", file=sys.stderr)
        models = None
        if self.model:
            from handtrain.app.models import Models

            models = Models(self.model, self.base, self.device)
        serve(models, Rows(self.dataset, self.split) if self.dataset else None, self.host, self.port, self.open)
        return 0
