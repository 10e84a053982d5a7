"""Certificates of a day, of authorities that tests make."""

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme

from cluster.config.schema import TLSConfig


@dataclass
class Issued:
    """A server's files in a folder, and what its clients need."""

    folder: Path
    ca: trustme.CA
    clients: trustme.CA

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.crt")

    def tls(self, *, mutual: bool = False) -> TLSConfig:
        return TLSConfig(
            certificate=str(self.folder / "tls.crt"),
            key=str(self.folder / "tls.key"),
            client_ca=str(self.folder / "clients.crt") if mutual else "",
        )

    def renew(self, *, expired: bool = False) -> str:
        """Another pair in the same files; its serial number in hex, as OpenSSL says it."""
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=-1 if expired else 1)
        issued = self.ca.issue_cert("localhost", "127.0.0.1", not_after=ends)
        for name, blobs in (
            ("tls.crt", issued.cert_chain_pems),
            ("tls.key", [issued.private_key_pem]),
        ):
            new = self.folder / f"{name}.new"
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            new.replace(self.folder / name)
        return serial_of(self.folder / "tls.crt")

    def client(self, name: str, authority: trustme.CA | None = None, *, expired: bool = False) -> tuple[str, str]:
        """Files of a client's certificate and key."""
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=-1 if expired else 1)
        issued = (authority or self.clients).issue_cert(f"{name}@example.org", not_after=ends)
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(issued.cert_chain_pems[0].bytes())
        issued.private_key_pem.write_to_path(key)
        return str(certificate), str(key)


def issue(folder: Path) -> Issued:
    made = Issued(folder=folder, ca=trustme.CA(), clients=trustme.CA())
    made.ca.cert_pem.write_to_path(folder / "ca.crt")
    made.clients.cert_pem.write_to_path(folder / "clients.crt")
    made.renew()
    return made


def serial_of(path: Path) -> str:
    from cryptography.x509 import load_pem_x509_certificates

    number = load_pem_x509_certificates(path.read_bytes())[0].serial_number
    text = f"{number:X}"
    return text if len(text) % 2 == 0 else "0" + text
