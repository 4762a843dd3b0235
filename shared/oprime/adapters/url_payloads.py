"""Payloads behind any fsspec URL: S3, Google Cloud Storage, Azure, HDFS, SFTP and others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import time
from typing import Any

import fsspec

from oprime.adapters.directory_payloads import file_of, name_of
from oprime.ports.payloads import check_payload_names, payload_name
from oprime.runtime.errors import OprimeError, PayloadsUnavailableError, SettingsError

LISTINGS = 20
"""Tries of a listing that others disturb."""


class UrlPayloads:
    """The Payloads port on the folder that `url` names. Files are named as in a directory.

    A writer that dies may leave a part of a payload, but nobody learns its name: names are given when all is written.
    """

    def __init__(self, url: str) -> None:
        """Opens no connection yet. Raises SettingsError where the package for this kind of URL is missing."""
        self._url = url
        try:
            files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"payloads.store ({url}) cannot be used: {error}") from error
        # fsspec has no types; many of its methods answer differently for one path and for several.
        self._files: Any = files
        self._is_made = False

    def put(self, owner: str, payload: bytes) -> str:
        return self.put_many([(owner, payload)])[0]

    def put_many(self, payloads: Sequence[tuple[str, bytes]]) -> list[str]:
        named = {payload_name(owner, time()): payload for owner, payload in payloads}
        with self._answering():
            if not self._is_made:
                self._files.makedirs(self._root, exist_ok=True)
                self._is_made = True
        try:
            with self._answering():
                self._files.pipe({self._path(name): payload for name, payload in named.items()})
        except BaseException:
            with suppress(OprimeError):
                self.delete(list(named))
            raise
        return list(named)

    def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        check_payload_names(names)
        distinct = list(dict.fromkeys(names))
        with self._answering():
            found = dict(zip(distinct, self._files.cat_ranges([self._path(name) for name in distinct], None, None), strict=True))
            for answer in found.values():
                if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                    raise answer
        return [None if isinstance(found[name], Exception) else found[name] for name in names]

    def delete(self, names: Sequence[str]) -> None:
        check_payload_names(names)
        paths = [self._path(name) for name in dict.fromkeys(names)]
        with self._answering():
            try:
                # Object stores remove many at once.
                self._files.rm(paths)
            except FileNotFoundError:
                for path in paths:
                    with suppress(FileNotFoundError):
                        self._files.rm_file(path)

    def names(self, prefix: str = "") -> Iterator[str]:
        """As the port says. The client reads the whole listing at once, about 100 bytes a name."""
        yield from (name for name in self._listed() if name.startswith(prefix))

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """As the port says, from one listing."""
        check_payload_names(names)
        listed = self._listed()
        return [listed.get(name) for name in names]

    def close(self) -> None:
        """Nothing to let go of: fsspec shares its connections within the process."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{file_of(name)}"

    def _listed(self) -> dict[str, int]:
        with self._answering():
            rows = self._rows()
        sizes = {name_of(str(row["name"]).rpartition("/")[2]): row["size"] for row in rows}
        return {name: size for name, size in sizes.items() if name}

    def _rows(self, tries: int = LISTINGS) -> list[dict[str, Any]]:
        try:
            return self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        except (KeyError, RuntimeError):
            # Clients that keep a folder in memory stumble over a file that goes while they list it.
            if tries == 1:
                raise
            return self._rows(tries - 1)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn what the client of this kind of URL raises, which may be anything, into an error of ours."""
        try:
            yield
        except NotImplementedError as error:
            raise SettingsError(
                f"payloads.store ({self._url}) cannot be written to: name a store that keeps files, such as s3://"
            ) from error
        except Exception as error:
            raise PayloadsUnavailableError(
                f"payloads in {self._url}: no answer ({type(error).__name__}: {error}); check that payloads.store names a place that has "
                "room and that this user may write to; workers wait and try again"
            ) from error
