"""TLS for gRPC, with certificates that can be replaced while the server runs."""

from __future__ import annotations

import grpc

from inference_server.security.tls import Certificates, TlsMaterial


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that use the content of `certificates` when a client connects; with a client CA every client must
    present a certificate. Open connections keep the certificate that they began with."""
    in_use = certificates.current

    def changed() -> grpc.ServerCertificateConfiguration | None:
        # gRPC calls this before every handshake, from a thread of its own: it compares and reads no file.
        nonlocal in_use
        if certificates.current is in_use:
            return None
        in_use = certificates.current
        return _configuration(in_use)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(in_use),
        changed,  # type: ignore[arg-type]  # gRPC's documentation allows None for "no change", its types do not
        require_client_authentication=in_use.client_ca is not None,
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )
