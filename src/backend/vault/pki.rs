//! Owns the files of a certificate that are made of what Vault answers: its chain as PEM, and what web servers want in one file.
//! Does not know how a certificate is asked for.

use zeroize::Zeroizing;

use super::certificate::Certificate;
use crate::secret::{Field, Form, SecretBytes};

/// Makes `ca_chain`, which Vault gives as an array, one text of PEM blocks, and adds `fullchain.pem` (certificate and chain, as
/// nginx wants it) and, where there is a key, `bundle.pem` (key, certificate, chain, as HAProxy wants it).
///
/// Roots are left out of the two: who trusts a root has it. Each block ends with one newline. Where the answer is no PEM
/// (`format=der`), or holds the key among the certificates (`format=pem_bundle`), it stays as it is.
pub(super) fn complete(fields: &mut Vec<Field>) {
    let chain = fields.iter_mut().find(|field| field.name == "ca_chain").and_then(unfold).unwrap_or_default();
    let text = |name: &str| {
        let field = fields.iter().find(|field| field.name == name && field.form == Form::Text);
        field.and_then(|field| field.value.expose_str())
    };
    let Some(certificate) = text("certificate").filter(|text| Certificate::of_pem(text).is_some()) else {
        return;
    };
    let above: Vec<&str> = match &*chain {
        [] => text("issuing_ca").into_iter().collect(),
        chain => chain.iter().map(String::as_str).collect(),
    };
    let sent = above.into_iter().filter(|pem| Certificate::of_pem(pem).is_some_and(|ca| !ca.is_root));
    let full: Vec<&str> = [certificate].into_iter().chain(sent).collect();
    let key = text("private_key").filter(|key| key.contains("PRIVATE KEY-----"));
    let bundle = key.map(|key| joined([key].iter().chain(&full)));
    let full = joined(&full);
    fields.push(file("fullchain.pem", full));
    fields.extend(bundle.map(|bundle| file("bundle.pem", bundle)));
}

/// Makes an array of certificates their text, and gives them; `None`, and nothing is changed, where it is something else.
fn unfold(field: &mut Field) -> Option<Vec<String>> {
    if field.form != Form::Json {
        return None;
    }
    let chain: Option<Vec<String>> = serde_json::from_slice(field.value.expose()).ok()?;
    let chain = chain.unwrap_or_default();
    if !chain.iter().all(|pem| Certificate::of_pem(pem).is_some()) {
        return None;
    }
    field.value = joined(&chain);
    field.form = Form::Text;
    Some(chain)
}

fn joined<T: AsRef<str>>(blocks: impl IntoIterator<Item = T>) -> SecretBytes {
    let mut bytes = Zeroizing::new(Vec::new());
    for block in blocks {
        bytes.extend_from_slice(block.as_ref().trim_ascii().as_bytes());
        bytes.push(b'\n');
    }
    bytes.into()
}

fn file(name: &str, value: SecretBytes) -> Field {
    Field { name: name.to_owned(), value, form: Form::Text }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use serde_json::json;

    use super::super::certificate::tests::{LEAF, ROOT};
    use super::*;
    use crate::backend::json_fields::fields_of_object;

    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\ncanary\n-----END EC PRIVATE KEY-----";

    fn completed(answer: serde_json::Value) -> Vec<(String, String)> {
        let mut fields = fields_of_object(&answer.to_string()).unwrap();
        complete(&mut fields);
        let text = |field: &Field| field.value.expose_str().unwrap().to_owned();
        fields.iter().map(|field| (field.name.clone(), text(field))).collect()
    }

    fn get<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
        fields.iter().find(|(known, _)| known == name).map(|(_, text)| &**text)
    }

    #[test]
    fn the_files_of_servers_are_made_without_the_root_and_every_block_ends_with_one_newline() {
        // LEAF stands for an intermediate: it did not sign itself.
        let answer = json!({"certificate": LEAF, "private_key": format!("{KEY}\n\n"), "ca_chain": [LEAF, format!("{ROOT}\n")]});
        let fields = completed(answer);
        assert_eq!(get(&fields, "certificate"), Some(LEAF), "as Vault spells it");
        assert_eq!(get(&fields, "ca_chain"), Some(&*format!("{LEAF}\n{ROOT}\n")));
        assert_eq!(get(&fields, "fullchain.pem"), Some(&*format!("{LEAF}\n{LEAF}\n")));
        assert_eq!(get(&fields, "bundle.pem"), Some(&*format!("{KEY}\n{LEAF}\n{LEAF}\n")));
    }

    #[test]
    fn without_a_chain_the_issuer_takes_its_place_unless_it_is_a_root() {
        for chain in [json!(null), json!([])] {
            let of = |issuer| json!({"certificate": LEAF, "issuing_ca": issuer, "ca_chain": chain});
            let fields = completed(of(LEAF));
            assert_eq!(get(&fields, "fullchain.pem"), Some(&*format!("{LEAF}\n{LEAF}\n")));
            assert_eq!((get(&fields, "ca_chain"), get(&fields, "bundle.pem")), (Some(""), None));
            assert_eq!(get(&completed(of(ROOT)), "fullchain.pem"), Some(&*format!("{LEAF}\n")));
        }
        assert_eq!(
            get(&completed(json!({"certificate": LEAF})), "fullchain.pem"),
            Some(&*format!("{LEAF}\n"))
        );
    }

    #[test]
    fn what_is_no_pem_or_holds_the_key_already_stays_as_it_is() {
        for answer in [
            json!({"certificate": "MIIC", "ca_chain": ["MIID"], "private_key": "MHcC"}),
            json!({"certificate": format!("{KEY}\n{LEAF}"), "private_key": KEY}),
            json!({"certificate": 7, "ca_chain": "canary"}),
            json!({"ca_chain": [1]}),
            json!({}),
        ] {
            let fields = completed(answer.clone());
            assert_eq!(fields.len(), answer.as_object().unwrap().len());
            assert!(get(&fields, "ca_chain").is_none_or(|chain| !chain.contains('\n')));
        }
    }
}
