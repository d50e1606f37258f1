"""``metrica-agent``, and ``python -m metrica_agent``: the program, imported without what it would never use.

That is 1.5 of the 36 MB that an agent may take, with Python 3.11; for newer ones no ``typing_extensions`` is installed.
"""

from _pickle import PicklingError

from metrica_agent.lean_imports import postponed, without

with (
    # msgspec takes typing's own; shutil packs no archives; structlog needs no rich, which is there only beside the
    # command line or the tests: a fifth of what a start takes there.
    without("typing_extensions", "bz2", "lzma", "rich"),
    # Of dates in mail, of addresses in brackets, of text from children in the locale's encoding, of paho's proxies; of
    # documents about types, and of temporary files.
    postponed("calendar", "ipaddress", "locale", "urllib.request", "msgspec.inspect", "aiofiles.tempfile"),
    # Of source, of words in headers that are not ASCII, of text in columns.
    postponed("tokenize", "email.header", "textwrap"),
    # structlog only wants to raise its error.
    postponed("pickle", known={"PicklingError": PicklingError}),
):
    from metrica_agent.main import main

if __name__ == "__main__":
    main()
