//! What we send and read beside what Google's own Python client sent and read in front of the emulator: recorded.json, whose first key
//! says where it comes from (tests/servers/bigquery_record.py makes it anew).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::arrow::util::pretty::pretty_format_batches;
use prost::Message;
use serde_json::Value;
use townlake_proto::bigquery_storage as google;

use super::mock_google::{Answer, MockGoogle, Step};
use super::{collect, connections, query, session};

const RECORDED: &str = include_str!("recorded.json");

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().expect("text")).expect("Base64")
}

#[tokio::test]
async fn we_send_what_googles_client_sends_and_read_what_it_reads() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    assert!(recorded["origin"].as_str().unwrap().contains("not against Google"));
    let [create, read] = recorded["grpc"].as_array().unwrap().as_slice() else { panic!("two calls were recorded") };
    let answered = google::ReadSession::decode(bytes(&create["responses"][0]).as_slice()).unwrap();
    let responses = read["responses"].as_array().unwrap().iter();
    let responses = responses.map(|response| google::ReadRowsResponse::decode(bytes(response).as_slice()).unwrap());

    let mock = MockGoogle::start().await;
    for call in recorded["rest"].as_array().unwrap() {
        let line = format!("{} /bigquery/v2{}", call["method"].as_str().unwrap(), call["path"].as_str().unwrap());
        mock.answer(&line, [Answer(200, call["answer"].clone())]);
    }
    mock.stream(&answered.streams[0].name, [responses.map(Step::As).collect::<Vec<_>>()]);
    mock.state().session = Some(answered);
    let keys = mock.keys().replace("project = \"p\"", "project = \"town\"");
    let (connections, query) = (connections(&format!("{keys}compression = \"lz4\"")), query());
    let session = session(&query, &connections, 4);
    let source = connections.source("bq").unwrap();
    assert_eq!(source.list_schemas(&query).await.unwrap(), ["recorded"]);
    assert_eq!(source.list_tables(&query, "recorded").await.unwrap()[0].name, "t");
    session.register_table("t", source.table(&query, "recorded", "t").await.unwrap().unwrap()).unwrap();
    let rows = collect(&session, "SELECT id, s, n, ts FROM t WHERE id > 0 ORDER BY id").await.unwrap();
    let shown = pretty_format_batches(&rows).unwrap().to_string();
    let cells: Vec<Vec<_>> =
        shown.lines().skip(3).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
    assert_eq!(recorded["rows"][0]["ts"], "2024-01-01 00:00:00+00:00");
    assert_eq!(cells[0], ["1", "a", recorded["rows"][0]["n"].as_str().unwrap(), "2024-01-01T00:00:00Z"]);
    assert_eq!(cells[1], ["2", "", "", ""]);

    // Byte for byte, but for the moment and the query's id.
    let theirs = bytes(&create["request"]);
    let known = google::CreateReadSessionRequest::decode(theirs.as_slice()).unwrap();
    assert_eq!(known.encode_to_vec(), theirs, "our contract loses nothing of it");
    let state = mock.state();
    let mut ours = state.sessions[0].clone();
    if let (Some(ours), Some(known)) = (&mut ours.read_session, &known.read_session) {
        assert!(ours.table_modifiers.as_ref().unwrap().snapshot_time.is_some());
        (ours.table_modifiers, ours.trace_id) = (known.table_modifiers, known.trace_id.clone());
    }
    assert_eq!(ours.encode_to_vec(), theirs);
    assert_eq!(state.session_heads[0].get("x-goog-request-params").unwrap(), create["routing"].as_str().unwrap());
    let theirs = google::ReadRowsRequest::decode(bytes(&read["request"]).as_slice()).unwrap();
    assert_eq!(state.reads, [(theirs.read_stream, theirs.offset)]);
    assert_eq!(state.read_heads[0].get("x-goog-request-params").unwrap(), read["routing"].as_str().unwrap());
    let asked: Vec<_> =
        state.asked.iter().map(|asked| asked.line.split(['?', ' ']).take(2).collect::<Vec<_>>().join(" ")).collect();
    for call in recorded["rest"].as_array().unwrap().iter().filter(|call| call["method"] == "GET").take(3) {
        let line = format!("GET /bigquery/v2{}", call["path"].as_str().unwrap());
        assert!(asked.contains(&line), "{line}: {asked:?}");
    }
}

/// The bodies of jobs: a dry run, and a run with its guard and label.
#[tokio::test]
async fn jobs_are_asked_for_as_googles_client_does() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let posts: Vec<_> = recorded["rest"].as_array().unwrap().iter().filter(|call| call["method"] == "POST").collect();
    let [dry, run] = posts.as_slice() else { panic!("two jobs were recorded") };
    let mock = MockGoogle::start().await;
    let keys = mock.keys().replace("project = \"p\"", "project = \"town\"");
    let table = "/bigquery/v2/projects/town/datasets/recorded/tables/t";
    let mut view = recorded["rest"][2]["answer"].clone();
    view["type"] = serde_json::json!("VIEW");
    mock.answer(&format!("GET {table}"), [Answer(200, view)]);
    let jobs = "POST /bigquery/v2/projects/town/jobs";
    mock.answer(jobs, [Answer(200, dry["answer"].clone()), Answer(200, run["answer"].clone())]);
    mock.answer("GET /bigquery/v2/projects/town/jobs/townlake-", [Answer(200, run["answer"].clone())]);
    let results = recorded["rest"].as_array().unwrap().last().unwrap();
    let mut with_rows = results["answer"].clone();
    with_rows["rows"] = serde_json::json!([{"f": [{"v": "1"}]}, {"f": [{"v": "2"}]}]);
    with_rows["pageToken"] = Value::Null;
    mock.answer(
        "GET /bigquery/v2/projects/town/queries/townlake-",
        [Answer(200, results["answer"].clone()), Answer(200, with_rows)],
    );
    mock.state().refusals = [tonic::Status::not_found("as the emulator says of anonymous tables")].into();
    let (connections, query) = (connections(&format!("{keys}maximum_bytes_billed = \"1 kB\"")), query());
    let session = session(&query, &connections, 4);
    let found = connections.source("bq").unwrap().table(&query, "recorded", "t").await.unwrap().unwrap();
    session.register_table("t", found).unwrap();
    assert_eq!(collect(&session, "SELECT id FROM t").await.unwrap()[0].num_rows(), 2);
    let bodies = mock.bodies(jobs);
    assert_eq!(bodies.len(), 2, "{bodies:?}");
    let of = |body: &Value, key: &str| body["configuration"]["query"][key].clone();
    assert_eq!(bodies[0]["configuration"]["dryRun"], dry["data"]["configuration"]["dryRun"]);
    for key in ["query", "useLegacySql"] {
        assert_eq!((of(&bodies[0], key), of(&bodies[1], key)), (of(&dry["data"], key), of(&run["data"], key)), "{key}");
    }
    assert_eq!(of(&bodies[1], "maximumBytesBilled"), of(&run["data"], "maximumBytesBilled"));
    assert_eq!(
        bodies[1]["configuration"]["labels"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["townlake_query"]
    );
    assert_eq!(bodies[1]["jobReference"]["projectId"], run["data"]["jobReference"]["projectId"]);
}
