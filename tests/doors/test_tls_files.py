"""What `tls` may name, and what is refused by name before anything starts."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from baton.errors import ConfigError
from cluster.config.load import from_tree
from cluster.config.schema import TLSConfig
from cluster.doors.tls_files import read_credentials
from tests.doors.certificates import Issued, issue


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return issue(tmp_path)


def test_a_pair_and_the_clients_authority_are_read(issued: Issued) -> None:
    read = read_credentials(issued.tls(mutual=True))
    assert read.certificate.startswith(b"-----BEGIN CERTIFICATE-----")
    assert b"\n\n" not in read.certificate + read.key + read.client_ca
    assert read.expires > datetime.datetime.now(datetime.UTC)
    assert "PRIVATE KEY" not in repr(read)


def refusal(tls: TLSConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        read_credentials(tls)
    return caught.value.message


def test_files_that_cannot_be_a_pair_are_refused_by_name(issued: Issued) -> None:
    tls, folder = issued.tls(mutual=True), issued.folder
    (folder / "other").mkdir()
    other = issue(folder / "other")
    assert "is not the key of the first certificate" in refusal(
        TLSConfig(certificate=tls.certificate, key=other.tls().key)
    )
    assert "tls.certificate: /nowhere cannot be read" in refusal(TLSConfig(certificate="/nowhere", key=tls.key))
    assert "holds no certificate" in refusal(TLSConfig(certificate=tls.key, key=tls.key))
    assert "holds no private key" in refusal(TLSConfig(certificate=tls.certificate, key=tls.certificate))
    client_ca = TLSConfig(certificate=tls.certificate, key=tls.key, client_ca=tls.key)
    assert refusal(client_ca).startswith("tls.client_ca: ")


def test_a_certificate_out_of_its_time_is_refused(issued: Issued) -> None:
    now = datetime.datetime.now(datetime.UTC)
    early = now - datetime.timedelta(days=365 * 60)
    with pytest.raises(ConfigError, match="not valid before"):
        read_credentials(issued.tls(), now=lambda: early)
    issued.renew(expired=True)
    assert "tls.crt expired on" in refusal(issued.tls())


def test_a_pair_that_openssl_finds_too_weak_is_refused_before_a_server_has_it(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 1024)
    now, name = datetime.datetime.now(datetime.UTC), x509.Name([])
    made = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1)
    made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    (tmp_path / "tls.crt").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "tls.key").write_bytes(key.private_bytes(*form))
    tls = TLSConfig(certificate=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key"))
    assert "KEY_TOO_SMALL" in refusal(tls)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(issued: Issued) -> None:
    path = issued.folder / "tls.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    assert "is encrypted" in refusal(issued.tls())


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"certificate": "a"}, "tls.key: is left out beside tls.certificate"),
        ({"key": "a"}, "tls.certificate: is left out beside tls.key"),
        ({"client_ca": "a"}, "tls.certificate: is left out beside tls.client_ca"),
        ({"cert": "a"}, "tls.cert: unknown key"),
    ],
)
def test_half_a_section_is_refused(section: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_tree({"tls": section})
