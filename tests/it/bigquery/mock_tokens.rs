//! Credentials against the MOCK of a token endpoint (and of Google's doors behind it).

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use townlake_common::ErrorCode;
use townlake_common::config::Config;
use townlake_connectors::SourceConnections;

use super::mock_google::{Answer, MockGoogle, Step};
use super::{collect, connections, query, session};

const TOKEN: &str = "hunter2-token";

/// A key file whose tokens come from the mock; `None` where there is no openssl to make a key.
pub(crate) fn key_file(folder: &Path, mock: &MockGoogle) -> Option<std::path::PathBuf> {
    let openssl = |arguments: &str| {
        let mut openssl = Command::new("openssl");
        openssl
            .args(arguments.split(' '))
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    };
    if !openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem")
        || !openssl("pkey -in key.pem -pubout -out public.pem")
    {
        assert!(std::env::var_os("TOWNLAKE_REQUIRE_SERVERS").is_none(), "these tests need openssl");
        eprintln!("SKIPPED: there is no openssl to make a key");
        return None;
    }
    let key = json!({
        "type": "service_account", "project_id": "p", "private_key_id": "kid-1", "client_email": "reader@p.iam.gserviceaccount.com",
        "private_key": std::fs::read_to_string(folder.join("key.pem")).unwrap(),
        "token_uri": format!("http://127.0.0.1:{}/token", mock.rest),
    });
    let path = folder.join("key.json");
    std::fs::write(&path, key.to_string()).unwrap();
    Some(path)
}

/// The claims of an assertion, when its signature is of the key.
fn verified(folder: &Path, assertion: &str) -> Value {
    let parts: Vec<_> = assertion.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { panic!("{assertion}") };
    std::fs::write(folder.join("signed"), format!("{header}.{claims}")).unwrap();
    std::fs::write(folder.join("signature"), URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args("dgst -sha256 -verify public.pem -signature signature signed".split(' ')).current_dir(folder);
    assert!(openssl.output().unwrap().status.success(), "openssl verifies the signature");
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    assert_eq!((header["alg"].as_str(), header["kid"].as_str()), (Some("RS256"), Some("kid-1")));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

#[tokio::test]
async fn a_service_account_signs_and_its_token_goes_through_both_doors_once_asked() {
    let (mock, folder) = (MockGoogle::start().await, tempfile::tempdir().unwrap());
    let Some(path) = key_file(folder.path(), &mock) else { return };
    mock.answer(
        "POST /token",
        [Answer(200, json!({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}))],
    );
    mock.stream("s", [vec![Step::Rows(vec![1])]]);
    let (connections, query) = (connections(&mock.keys_with(&path)), query());
    let session = session(&query, &connections, 2);
    let table = connections.source("bq").unwrap().table(&query, "d", "t").await.unwrap().unwrap();
    session.register_table("t", table).unwrap();
    assert_eq!(collect(&session, "SELECT id FROM t").await.unwrap()[0].num_rows(), 1);
    let state = mock.state();
    let tokens: Vec<_> = state.asked.iter().filter(|asked| asked.line.starts_with("POST /token")).collect();
    assert_eq!(tokens.len(), 1, "a token is kept");
    let form: Vec<(String, String)> =
        reqwest::Url::parse(&format!("http://x/?{}", tokens[0].body)).unwrap().query_pairs().into_owned().collect();
    assert_eq!(form[0], ("grant_type".into(), "urn:ietf:params:oauth:grant-type:jwt-bearer".into()));
    let claims = verified(folder.path(), &form[1].1);
    assert_eq!(claims["iss"], "reader@p.iam.gserviceaccount.com");
    assert_eq!(claims["aud"], format!("http://127.0.0.1:{}/token", mock.rest));
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/bigquery");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(state.session_heads[0].get("authorization").unwrap(), bearer.as_str());
    let looked_up = state.asked.iter().find(|asked| asked.line.contains("/tables/t")).unwrap();
    assert!(looked_up.head.contains(&format!("authorization: {bearer}")), "{}", looked_up.head);
}

#[tokio::test]
async fn refused_credentials_are_named_and_never_shown() {
    let (mock, folder) = (MockGoogle::start().await, tempfile::tempdir().unwrap());
    let Some(path) = key_file(folder.path(), &mock) else { return };
    let secret = std::fs::read_to_string(folder.path().join("key.pem")).unwrap();
    let secret = secret.lines().nth(1).unwrap().to_string();
    let refused = Answer(400, json!({"error": "invalid_grant", "error_description": format!("{TOKEN} is wrong")}));
    let denied = Answer(
        403,
        json!({"error": {"message": "Access Denied: Dataset p:d", "errors": [{"reason": "accessDenied"}]}}),
    );
    let good = Answer(200, json!({"access_token": TOKEN, "expires_in": 3600}));
    let cases = [
        (refused, None, ErrorCode::SourceDenied, "invalid_grant"),
        (Answer(503, json!({})), None, ErrorCode::SourceUnavailable, "503"),
        (Answer(200, json!({"id_token": TOKEN})), None, ErrorCode::DataCorrupt, "without an access token"),
        (good, Some(denied), ErrorCode::SourceDenied, "Access Denied: Dataset p:d"),
    ];
    for (token, table, code, told) in cases {
        mock.answer("POST /token", [token]);
        if let Some(table) = table {
            mock.answer("GET /bigquery/v2/projects/p/datasets/d/tables/t", [table]);
        }
        let connections = connections(&mock.keys_with(&path));
        let error = connections.source("bq").unwrap().table(&query(), "d", "t").await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(told) && error.message().contains("catalog bq"), "{error}");
        let shown = format!("{error} {error:?} {} {connections:?}", error.to_wire());
        assert!(!shown.contains(TOKEN) && !shown.contains(&secret) && !shown.contains("reader@p"), "{shown}");
    }
}

#[tokio::test]
async fn a_workload_elsewhere_exchanges_its_token_and_impersonates() {
    let (mock, folder) = (MockGoogle::start().await, tempfile::tempdir().unwrap());
    let door = |path: &str| format!("http://127.0.0.1:{}{path}", mock.rest);
    std::fs::write(folder.path().join("subject.json"), "{\"token\": \"hunter2-subject\"}").unwrap();
    let path = folder.path().join("external.json");
    let file = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/projects/1/pools/p/providers/k8s",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": door("/sts"),
        "service_account_impersonation_url": door("/impersonate"),
        "credential_source": {"file": folder.path().join("subject.json"),
            "format": {"type": "json", "subject_token_field_name": "token"}},
    });
    std::fs::write(&path, file.to_string()).unwrap();
    mock.answer("POST /sts", [Answer(200, json!({"access_token": "hunter2-federated", "expires_in": 600}))]);
    let impersonated = json!({"accessToken": TOKEN, "expireTime": "2099-01-01T00:00:00Z"});
    mock.answer("POST /impersonate", [Answer(200, impersonated)]);
    mock.stream("s", [vec![Step::Rows(vec![1])]]);
    let (connections, query) = (connections(&mock.keys_with(&path)), query());
    let session = session(&query, &connections, 2);
    let table = connections.source("bq").unwrap().table(&query, "d", "t").await.unwrap().unwrap();
    session.register_table("t", table).unwrap();
    assert_eq!(collect(&session, "SELECT id FROM t").await.unwrap()[0].num_rows(), 1);
    let state = mock.state();
    let asked = |line: &str| state.asked.iter().find(|asked| asked.line.starts_with(line)).unwrap();
    let form: std::collections::HashMap<String, String> =
        reqwest::Url::parse(&format!("http://x/?{}", asked("POST /sts").body))
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect();
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:token-exchange");
    assert_eq!(form["subject_token"], "hunter2-subject");
    assert!(form["audience"].ends_with("/providers/k8s"));
    assert!(asked("POST /impersonate").head.contains("authorization: Bearer hunter2-federated"));
    assert_eq!(state.session_heads[0].get("authorization").unwrap(), format!("Bearer {TOKEN}").as_str());
}

#[tokio::test]
async fn a_subject_that_is_not_there_is_named_and_what_is_refused_is_not_shown() {
    let (mock, folder) = (MockGoogle::start().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("external.json");
    let file = |source: Value| {
        json!({"type": "external_account", "audience": "a", "subject_token_type": "t",
            "token_url": format!("http://127.0.0.1:{}/sts", mock.rest), "credential_source": source})
    };
    let subject = folder.path().join("subject");
    std::fs::write(&subject, "hunter2-subject\n").unwrap();
    let refused = Answer(400, json!({"error": "invalid_grant", "error_description": "hunter2-subject is wrong"}));
    mock.answer("POST /sts", [refused]);
    for (source, told) in [
        (json!({"file": subject}), "invalid_grant"),
        (json!({"file": folder.path().join("nothing")}), "cannot be read"),
        (json!({"file": subject, "format": {"type": "json", "subject_token_field_name": "x"}}), "member x"),
    ] {
        std::fs::write(&path, file(source).to_string()).unwrap();
        let connections = connections(&mock.keys_with(&path));
        let error = connections.source("bq").unwrap().table(&query(), "d", "t").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
        assert!(error.message().contains(told) && !format!("{error:?}").contains("hunter2"), "{told}: {error:?}");
    }
}

#[test]
fn a_key_file_of_no_use_is_refused_without_being_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let key = |kind: &str, key: &str, uri: &str| {
        json!({"type": kind, "client_email": "reader@p", "private_key": key, "token_uri": uri}).to_string()
    };
    let external = |url: &str, source: Value| {
        json!({"type": "external_account", "audience": "hunter2", "subject_token_type": "t", "token_url": url,
            "credential_source": source})
        .to_string()
    };
    let uri = "https://oauth2.googleapis.com/token";
    let cases = [
        ("hunter2".to_string(), "no key of a service account"),
        (key("authorized_user", "hunter2", uri), "type other than service_account"),
        (key("service_account", "hunter2", uri), "no private key"),
        (key("service_account", "hunter2", "http://evil.example/token"), "not https"),
        (key("service_account", "hunter2", "hunter2"), "no URL"),
        (external("https://sts.example/x", json!({"environment_id": "aws1"})), "AWS"),
        (external("https://sts.example/x", json!({"executable": {"command": "hunter2"}})), "program"),
        (external("http://evil.example/x", json!({"file": "/hunter2"})), "not https"),
        (external("https://sts.example/x", json!({})), "neither a file nor a URL"),
        ("x".repeat(100_000), "too large"),
    ];
    for (number, (text, told)) in cases.iter().enumerate() {
        let path = folder.path().join(format!("{number}.json"));
        std::fs::write(&path, text).unwrap();
        let toml = format!("[catalogs.bq]\ntype = \"bigquery\"\nproject = \"p\"\nkey_file = \"{}\"", path.display());
        let error = SourceConnections::from_config(&Config::from_toml(&toml).unwrap().catalogs).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{error}");
        assert!(error.message().contains(told) && error.message().contains("catalogs.bq.key_file"), "{told}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
