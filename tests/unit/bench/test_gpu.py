"""The benchmark of a GPU, dry on a CPU."""

import pytest
from typer.testing import CliRunner

from bench import gpu


@pytest.mark.parametrize("kv_dtype", ["auto", "fp8"])
def test_its_code_runs_with_a_tiny_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kv_dtype: str
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    gpu.main(device="cpu", kv_dtype=kv_dtype)
    said = capsys.readouterr().out
    assert "of bandwidth" in said
    assert "of products" in said
    assert "% (bar 70%)" in said


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    app = typer.Typer()
    app.command()(gpu.main)
    done = CliRunner().invoke(app, [])
    assert (done.exit_code, "there is no GPU" in done.output) == (0, True)
