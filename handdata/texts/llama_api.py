"""The part of llama-cpp-python's C interface that is called, and a check that the installed version has it.

llama.cpp renames functions and adds arguments between releases, and ctypes notices neither: a missing field of a struct
is set without an effect, and a call with an argument too few reads another one's memory.
"""

from typing import Any

from handdata.errors import UserError

TESTED = ">=0.3.36,<0.3.37"  # as in pyproject.toml
FUNCTIONS = {  # number of arguments by name
    "llama_backend_init": 0, "llama_batch_free": 1, "llama_batch_init": 3, "llama_context_default_params": 0,
    "llama_decode": 2, "llama_free": 1, "llama_get_memory": 1, "llama_init_from_model": 2, "llama_log_set": 2,
    "llama_memory_clear": 2, "llama_memory_seq_cp": 5, "llama_memory_seq_rm": 4, "llama_model_chat_template": 2,
    "llama_model_default_params": 0, "llama_model_free": 1, "llama_model_get_vocab": 1,
    "llama_model_load_from_file": 2, "llama_n_ctx": 1, "llama_sampler_chain_add": 2,
    "llama_sampler_chain_default_params": 0, "llama_sampler_chain_init": 1, "llama_sampler_free": 1,
    "llama_sampler_init_dist": 1, "llama_sampler_init_grammar": 3, "llama_sampler_init_greedy": 0,
    "llama_sampler_init_temp": 1, "llama_sampler_sample": 3, "llama_set_n_threads": 3,
    "llama_supports_gpu_offload": 0, "llama_token_to_piece": 6, "llama_tokenize": 7, "llama_vocab_bos": 1,
    "llama_vocab_eos": 1, "llama_vocab_is_eog": 2,
}  # fmt: skip
TYPES = ("llama_log_callback", "llama_token")
FIELDS = {  # of structs
    "llama_model_params": ("n_gpu_layers",),
    "llama_context_params": ("n_ctx", "n_batch", "n_seq_max", "kv_unified"),
    "llama_batch": ("n_tokens", "token", "pos", "n_seq_id", "seq_id", "logits"),
}


def faults(llama_cpp: Any) -> list[str]:
    """Return the differences of the module as phrases, an empty list for a version that can be used."""
    found = [name for name in (*FUNCTIONS, *TYPES) if not hasattr(llama_cpp, name)]
    lacking = [f"{name} is missing" for name in found]
    for name, count in FUNCTIONS.items():
        arguments = getattr(getattr(llama_cpp, name, None), "argtypes", None)
        if arguments is not None and len(arguments) != count:
            lacking.append(f"{name} takes {len(arguments)} arguments instead of {count}")
    for name, fields in FIELDS.items():
        known = {entry[0] for entry in getattr(getattr(llama_cpp, name, None), "_fields_", ())}
        lacking += [f"{name}.{entry} is missing" for entry in fields if entry not in known]
    return lacking


def require_api(llama_cpp: Any) -> None:
    """Raise `UserError` that names the first differences of a version whose interface is another one."""
    lacking = faults(llama_cpp)
    if lacking:
        more = f", and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UserError(
            f"llama-cpp-python {llama_cpp.__version__} cannot be used ({'; '.join(lacking[:3])}{more}):"
            f" pip install 'llama-cpp-python{TESTED}'"
        )
