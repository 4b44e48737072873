"""Machine code that is kept belongs to the sources that it was compiled from."""

from posterion import kernels
from posterion.kernels import compiled


def test_kept_machine_code_knows_the_whole_folder() -> None:
    for name in kernels.__all__:
        kernel = getattr(kernels, name)
        if not isinstance(kernel, int):
            assert kernel._cache._cache_file._source_stamp[-1] == compiled._sources(), name


def test_sources_are_all_files_of_the_folder(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    stamps = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / "body.py").write_text(text)
        stamps.append(compiled._sources.__wrapped__())
    assert stamps[0] != stamps[1]
