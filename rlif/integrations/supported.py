"""Which releases of other packages the adapters fit. Any other is refused by name, never half-patched."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet
from packaging.version import Version

# Each range is what the tests of that adapter have run with. A patched function is an internal of its package, so
# that every minor release has to be read again before it is let in.
SUPPORTED = {
    "trl": SpecifierSet(">=1.16,<1.17"),
    "verl": SpecifierSet(">=0.9.1,<0.9.2"),
}


class UnsupportedVersionError(ImportError):
    """A package whose adapter was asked for is missing, or is a release that the adapter was not tested with."""


def require(package: str) -> Version:
    """Return the installed version of a package that an adapter is for.

    Args:
        package: a key of `SUPPORTED`.

    Raises:
        UnsupportedVersionError: not installed, or outside the supported range; names the package, what is there and
            the range.
    """
    supported = SUPPORTED[package]
    wanted = f"rlif.integrations.{package} supports {package} {supported}"
    try:
        installed = Version(version(package))
    except PackageNotFoundError:
        raise UnsupportedVersionError(
            f"{wanted}, and {package} is not installed: pip install 'rlif[{package}]'"
        ) from None
    if installed not in supported:
        raise UnsupportedVersionError(
            f"{wanted}, and {package} {installed} is installed: pip install '{package}{supported}'"
        )
    return installed
