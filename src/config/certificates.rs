//! Files with the certificates of a company's or a server's own authority.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};

use super::values::{InvalidValue, quoted};

/// Every certificate of a PEM file, as DER.
pub(super) fn read(file: &Path) -> Result<Vec<Vec<u8>>, InvalidValue> {
    const HINT: &str = "write the path of a PEM file with one or more BEGIN CERTIFICATE blocks";
    let wrong = |what: String| InvalidValue::new(format!("{} {what}", quoted(file)), HINT);
    let found: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_file_iter(file).and_then(|certificates| {
            certificates
                .map(|one| one.map(|one| one.to_vec()))
                .collect()
        });
    match found {
        Ok(found) if found.is_empty() => Err(wrong("contains no certificate".to_owned())),
        Ok(found)
            if found
                .iter()
                .any(|der| x509_parser::parse_x509_certificate(der).is_err()) =>
        {
            Err(wrong(
                "contains a block that is not a certificate".to_owned(),
            ))
        }
        Ok(found) => Ok(found),
        Err(pem::Error::Io(error)) => Err(InvalidValue::new(
            format!("cannot read {}: {error}", quoted(file)),
            "give the service's user read access to the file",
        )),
        Err(error) => Err(wrong(format!("cannot be parsed: {error}"))),
    }
}
