"""What is kept of loaded scripts and functions, and that it is bounded."""

import hashlib

from nutproxy.front import scripts
from nutproxy.front.scripts import Scripts


def sha(text):
    return hashlib.sha1(text).hexdigest().encode()


def library(name, body=b""):
    return b"#!lua name=%b\n%b" % (name, body)


def test_a_script_is_found_by_its_sha1():
    kept = Scripts()
    kept.keep_script(b"return 1")
    kept.keep_script(b"return 1")
    assert kept.script(sha(b"return 1").upper()) == [
        b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$8\r\nreturn 1\r\n"
    ]
    assert (kept.script(b"x"), kept.count, kept.size) == ([], 1, 8)


def test_the_oldest_are_forgotten():
    kept = Scripts()
    texts = [b"%d" % number * (scripts.TEXT_MAX // 2) for number in range(10)]
    texts += [b"%d" % number * (scripts.TEXT_MAX // 2) for number in range(10, 40)]
    texts = [text[: scripts.TEXT_MAX] for text in texts]
    for text in texts:
        kept.keep_script(text)
        assert kept.size <= scripts.LIMIT
    assert not kept.script(sha(texts[0]))
    assert kept.script(sha(texts[-1]))
    kept.keep_script(b"x" * (scripts.TEXT_MAX + 1))
    assert not kept.script(sha(b"x" * (scripts.TEXT_MAX + 1)))


def test_a_library_is_kept_by_its_name():
    kept = Scripts()
    kept.keep_library(library(b"a", b"1"))
    kept.keep_library(library(b"b", b"2"))
    kept.keep_library(library(b"a", b"3"))
    kept.keep_library(b"no header")
    assert list(kept.libraries.values()) == [library(b"b", b"2"), library(b"a", b"3")]
    kept.forget_library(b"b")
    kept.forget_library(b"nosuch")
    assert len(kept.functions()) == 1
    kept.forget_libraries()
    assert (kept.count, kept.size) == (0, 0)


def test_libraries_are_bounded():
    kept = Scripts()
    for number in range(2 * scripts.LIBRARIES_MAX):
        kept.keep_library(library(b"%d" % number))
    assert len(kept.libraries) == scripts.LIBRARIES_MAX


def test_flush_forgets_scripts_and_keeps_libraries():
    kept = Scripts()
    kept.keep_script(b"return 1")
    kept.keep_library(library(b"a"))
    kept.forget_scripts()
    assert (kept.count, kept.size) == (1, len(library(b"a")))
