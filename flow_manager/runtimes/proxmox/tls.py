"""How a server's certificate is checked: alike for its API and for its consoles."""

from __future__ import annotations

import ssl

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context


def make_context(verify: bool | str) -> ssl.SSLContext:
    """`verify` as requests takes it: True, False, or a file of certificates, which is read later by who connects.

    Signature, validity and name are checked; the form is not. Since Python 3.13 it is (VERIFY_X509_STRICT, in urllib3 too),
    and the authority that a Proxmox VE cluster makes for itself, without a `keyUsage`, is refused by that. A node's own
    certificate as `ca_file` is trusted as it stands (VERIFY_X509_PARTIAL_CHAIN), also before 3.13.
    """
    context = create_urllib3_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.check_hostname, context.verify_mode = True, ssl.CERT_REQUIRED
    return context


def trusting_context(verify: bool | str) -> ssl.SSLContext:
    """The same, with the certificates read. :raises OSError: the file is none of certificates."""
    context = make_context(verify)
    if verify is not False:
        context.load_verify_locations(cafile=DEFAULT_CA_BUNDLE_PATH if verify is True else verify)
    return context
