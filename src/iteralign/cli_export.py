"""`iteralign export`: an aligned model as a folder that others can load; no logic of its own."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Gguf(StrEnum):
    f16 = "f16"
    q8_0 = "q8_0"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="directory that `iteralign run` made")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="folder to make", show_default=False)],
    dtype: Annotated[
        Dtype | None, typer.Option(help="of the weights", show_default="as the checkpoint was written: float32")
    ] = None,
    gguf: Annotated[
        Gguf | None,
        typer.Option(help="beside the weights one file for llama.cpp, Ollama, LM Studio", show_default="no"),
    ] = None,
    with_examples: Annotated[
        bool, typer.Option("--with-examples", help="three prompts with answers in the card, harmful text cut")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="NAME", help="push the folder to the Hugging Face hub as ORG/NAME")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="a repository made on the hub is private")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export in DIR")] = False,
) -> None:
    """Write the aligned model of a run as a folder that `from_pretrained` loads, with model card and constitution."""
    from iteralign.report.export import Wanted, push
    from iteralign.report.export import export as write

    wanted = Wanted(
        dtype=dtype.value if dtype else None,
        gguf=gguf.value if gguf else None,
        examples=with_examples,
        overwrite=overwrite,
    )
    folder = write(run_dir, to, wanted, push_to_hub)
    for path in sorted(folder.iterdir()):
        typer.echo(f"{path.stat().st_size / 1e6:10.2f} MB  {path}")
    if push_to_hub:
        typer.echo(f"Pushed: {push(folder, push_to_hub, private)}")
