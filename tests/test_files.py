import pytest

from thermojax import files


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    files.write_bytes(path, b"old")

    def interrupted():
        with files.writing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert files.write_bytes(path, "new ±").read_text(encoding="utf-8") == "new ±"
