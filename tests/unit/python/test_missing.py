"""What is proposed for a module that a Python seed does not have."""

from __future__ import annotations

from pathlib import Path

from pollen.sdk.python.missing import cure

SAID = "Traceback:\n    import requests\nModuleNotFoundError: No module named 'requests.sessions'"


def test_a_package_is_to_be_named_in_either_of_two_ways() -> None:
    told = cure(SAID, "my page.py")
    assert "pln seed 'my page.py' --requirements FILE" in told
    assert '# dependencies = ["requests"]' in told
    assert "pln seed FILE --requirements FILE" in cure(SAID)


def test_a_module_beside_the_file_wants_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "page.py"
    source.write_text("import requests")
    assert "--requirements" in cure(SAID, str(source))
    (tmp_path / "requests.py").write_text("")
    assert cure(SAID, str(source)).endswith(f"pln seed {tmp_path}")


def test_whatever_else_went_wrong_has_another_cure() -> None:
    assert cure("ZeroDivisionError: division by zero", "page.py") == ""
    assert cure("ImportError: cannot import name 'x' from 'requests'") == ""
