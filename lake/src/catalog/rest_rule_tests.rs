//! What each status of a REST server means: calls that are made again, and those that are not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::json;
use townlake_common::ErrorCode;
use townlake_common::config::{CatalogConfig, Config};

use super::rest_client::RestClient;

/// A server that answers what it is told to, and then 200.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<(u16, Option<&'static str>)>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn will_answer(&self, answers: &[(u16, Option<&'static str>)]) {
        *self.answers.lock() = answers.iter().copied().collect();
        self.asked.lock().clear();
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }
}

async fn answer(
    State(script): State<Arc<Script>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let token = headers.get("authorization").map(|token| token.to_str().unwrap().to_string()).unwrap_or_default();
    if uri.path().ends_with("/token") || uri.path().ends_with("/tokens") {
        let count = script.asked.lock().iter().filter(|asked| asked.starts_with("token")).count();
        script.asked.lock().push(format!("token {uri} {body}"));
        return Json(json!({ "access_token": format!("t{count}"), "expires_in": 3600 })).into_response();
    }
    script.asked.lock().push(format!("{method} {uri} {token}"));
    let (status, retry_after) = script.answers.lock().pop_front().unwrap_or((200, None));
    let body = Json(json!({ "error": { "message": "no such luck", "code": status } }));
    let status = StatusCode::from_u16(status).unwrap();
    match retry_after {
        Some(after) => (status, [("retry-after", after)], body).into_response(),
        None => (status, body).into_response(),
    }
}

async fn start(keys: &str) -> (Arc<Script>, RestClient) {
    let script = Arc::new(Script::default());
    let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let keys = keys.replace("ADDRESS", &address.to_string());
    let text = format!("[catalogs.r]\ntype = \"iceberg\"\ncatalog = \"rest\"\nuri = \"http://{address}\"\n{keys}");
    let Some(CatalogConfig::Iceberg(config)) = Config::from_toml(&text).unwrap().catalogs.remove("r") else {
        panic!("no catalog")
    };
    let client = RestClient::connect("r", &config).await.unwrap();
    (script, client)
}

#[tokio::test]
async fn what_had_no_effect_is_tried_again() {
    let (script, client) = start("").await;
    let (get, post) = (Method::GET, Method::POST);
    for (method, answers, status, calls) in [
        (&get, [503, 502, 504].as_slice(), 200, 4),
        (&get, &[503; 9], 503, 4),
        (&get, &[500], 500, 1),
        (&get, &[404], 404, 1),
        (&get, &[401], 401, 1),
        (&get, &[403], 403, 1),
        (&post, &[429, 429], 200, 3),
        // It may have happened.
        (&post, &[503], 503, 1),
        (&post, &[502], 502, 1),
        (&post, &[409], 409, 1),
    ] {
        script.will_answer(&answers.iter().map(|status| (*status, None)).collect::<Vec<_>>());
        let answer = client.call(method.clone(), &["x"], &[], Some(&json!({}))).await.unwrap();
        assert_eq!((answer.status.as_u16(), script.asked().len()), (status, calls), "{method} {answers:?}");
        let error = answer.error("r");
        let expected = match status {
            401 | 403 => ErrorCode::SourceDenied,
            500.. => ErrorCode::SourceUnavailable,
            _ => ErrorCode::SourceError,
        };
        assert_eq!((error.code(), error.is_retryable()), (expected, status >= 500), "{error}");
    }
}

#[tokio::test]
async fn a_server_says_when_it_wants_to_be_asked_again() {
    let (script, client) = start("").await;
    let began = Instant::now();
    script.will_answer(&[(429, Some("1"))]);
    let answer = client.call(Method::POST, &["x"], &[], None).await.unwrap();
    assert_eq!((answer.status.as_u16(), script.asked().len()), (200, 2));
    assert!(began.elapsed() >= Duration::from_secs(1));
    script.will_answer(&[(503, Some("3600"))]);
    let answer = client.call(Method::GET, &["x"], &[], None).await.unwrap();
    assert_eq!((answer.status.as_u16(), script.asked().len()), (503, 1), "no statement waits for an hour");
}

#[tokio::test]
async fn tokens_come_from_the_server_that_gives_them() {
    let login = "credential = \"me:hunter2\"\n";
    let (script, client) =
        start(&format!("{login}scope = \"\"\noauth2_server_uri = \"http://ADDRESS/else/token\"")).await;
    let asked = script.asked();
    assert!(asked[0].starts_with("token /else/token grant_type=client_credentials"), "{asked:?}");
    assert!(!asked[0].contains("scope"), "{asked:?}");
    // One refusal brings one new token, and many calls share it.
    script.will_answer(&[(401, None)]);
    client.call(Method::GET, &["x"], &[], None).await.unwrap();
    let calls = (0..8).map(|_| client.call(Method::GET, &["x"], &[], None));
    futures::future::join_all(calls).await;
    let asked = script.asked();
    assert_eq!(asked.iter().filter(|asked| asked.starts_with("token")).count(), 1, "{asked:?}");
    // A token that is refused anew each time is not asked for without end.
    script.will_answer(&[(401, None), (401, None), (401, None)]);
    let answer = client.call(Method::POST, &["x"], &[], None).await.unwrap();
    assert_eq!((answer.status.as_u16(), script.asked().len()), (401, 3));

    let (script, _client) = start(login).await;
    let asked = script.asked();
    assert!(asked[0].starts_with("token /v1/oauth/tokens") && asked[0].contains("scope=catalog"), "{asked:?}");
}
