"""Jobs that are left in the folder, and what `hesscomp submit` sends."""

import errno
import json
import os
import stat

import pytest
from fakes import running_front, until

from hesscomp.cli.clients import _job_of
from hesscomp.cli.main import main
from hesscomp.client import leave, left
from hesscomp.errors import InputError


def said(capsys, *words: str, status: int = 0) -> str:
    assert main(list(words)) == status
    found = capsys.readouterr()
    return found.out + found.err


def test_what_is_written_is_sent_though_it_is_the_default():
    """A service may have been started with other values than the command's own."""
    assert _job_of(("compress", "--seed", "0", "--rank", "2")) == (
        *("compress", {"seed": 0, "rank": 2}, None),
    )
    assert _job_of(("compress", "--at", "zero")) == ("compress", {}, "zero")
    assert _job_of(("spectrum",)) == ("spectrum", {}, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compress", "--at", "zero", "initial"), "--at zero initial: a job .* takes one point"),
        (("compress", "--at", "zero", "--at", "initial"), "takes one point; submit a job for each"),
        (("compress", "--out", "f.h5"), "--out: a service decides it"),
        (("compress", "--threads", "2"), "--threads: a service decides it"),
        (("newton", "--standardize"), "--standardize: the service's columns stay as they are; "),
        (("dance",), "no job after --"),
    ],
)
def test_what_a_service_does_not_take_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        _job_of(words)


@pytest.mark.parametrize("family", ["poisson", "logistic", "gausian"])
@pytest.mark.parametrize("inbox", [[], ["--inbox"]])
def test_submitting_a_fit_of_a_family_says_what_to_do_instead(tmp_path, capsys, family, inbox):
    """Of any family, also one that does not exist: the service's problem has one already."""
    folder = tmp_path / "svc"
    words = "submit", str(folder), *inbox, "--", "newton", "--family", family
    assert said(capsys, *words, status=2) == (
        "hesscomp: error: --family: the service fits logistic regression; run `hesscomp newton` "
        "for another family\n"
    )
    assert not folder.exists()


def test_submitting_an_option_that_the_job_lacks_names_who_has_it(tmp_path, capsys):
    words = "submit", str(tmp_path / "svc"), "--", "compress", "--family", "poisson"
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    assert "no option --family; hesscomp newton has it" in capsys.readouterr().err


def test_submitting_before_the_first_start(tmp_path, capsys):
    folder = tmp_path / "svc"
    job = "--", "compress", "--rank", "2"
    text = said(capsys, "submit", str(folder), *job, status=2)
    assert "svc: no service has started here; start it by hesscomp serve, or let" in text
    assert not folder.exists()
    assert said(capsys, "submit", str(folder), "--inbox", *job).startswith("left in the inbox: ")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "no service has started here" in said(capsys, "submit", str(folder), *job)
    text = said(capsys, "jobs", str(folder), status=1)
    assert text.count(".json  waiting\n") == 2 and "no service has started here" in text
    with running_front(folder) as running:
        jobs = until(lambda: len(found := running.client.jobs()) == 2 and found)
        assert all(job.result(10) for job in jobs) and not left(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    with pytest.raises(InputError, match="is no service's folder; name a new or an empty one"):
        leave(other, "compress", {}, None)


def test_a_refused_job_is_listed_with_its_reason(tmp_path, capsys, monkeypatch):
    with running_front(tmp_path / "svc") as running:
        key = leave(running.folder, "compress", {"rank": 0}, None)
        lost = leave(running.folder, "compress", {}, "0" * 64)
        (running.folder / "inbox" / "half.json").write_text("{")
        (running.folder / "inbox" / "long.json").write_text("{" + " " * 2**16 + "}")
        until(lambda: [state for _, state in left(running.folder) if "refused: " in state][3:])
        text = said(capsys, "jobs", str(running.folder))
        assert f"inbox/{key}.refused  refused: `rank` must be at least 1, not 0\n" in text
        assert f"inbox/{lost}.refused  refused: {'0' * 64}: the service holds no such point" in text
        assert "inbox/half.refused  refused: Input data was truncated" in text
        assert "inbox/long.refused  refused: a job has at most 65536 bytes" in text
        with monkeypatch.context() as patched:  # a fault of the service's own
            patched.setattr(running.service.front, "_check_job", lambda body: 1 / 0)
            key = leave(running.folder, "compress", {}, None)
            until(lambda: dict(left(running.folder)).get(f"{key}.refused", "").find("ZeroDiv") > 0)
        leave(running.folder, "compress", {}, None)
        assert until(lambda: running.client.jobs())[0].result(10)
    assert running.status == 0  # nothing waits for the next start


def test_a_job_that_finds_no_room_on_the_disk_stays_in_the_inbox(tmp_path, monkeypatch):
    def no_room(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("hesscomp.service.server.INBOX_SECONDS", 0.02)
    folder = tmp_path / "svc"
    with running_front(folder) as running:
        monkeypatch.setattr("hesscomp.service.jobs.atomic_path", no_room)
        key, tries = leave(folder, "compress", {"rank": 2}, "zero"), []
        add = running.service.front.store.add
        monkeypatch.setattr(
            running.service.front.store, "add", lambda *given: tries.append(0) or add(*given)
        )
        until(lambda: len(tries) > 3)
        assert left(folder) == [(f"{key}.json", "waiting")]
        assert running.end() == 75  # it is for the next start
    monkeypatch.undo()
    assert json.loads((folder / "inbox" / f"{key}.json").read_text())["options"] == {"rank": 2}
    with running_front(folder) as running:
        job = until(lambda: running.client.jobs())[0]
        assert job.known["key"] == key and job.result(10)
    assert len(list((folder / "jobs").iterdir())) <= 2  # the end may have come within a try
