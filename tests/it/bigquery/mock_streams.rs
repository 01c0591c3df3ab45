//! Against the MOCK of Google's doors: what is sent, streams that break, lie or hang, jobs of views.

use std::time::{Duration, Instant};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use serde_json::json;
use tonic::Status;
use townlake_common::{Error, ErrorCode};

use super::mock_google::{Answer, MockGoogle, Step, messages};
use super::{collect, connections, query, session};

const STREAM: &str = "projects/p/locations/eu/sessions/s/streams/1";

async fn run(mock: &MockGoogle, keys: &str, table: &str, sql: &str) -> Result<Vec<i64>, Error> {
    let (connections, query) = (connections(&format!("{}{keys}", mock.keys())), query());
    let session = session(&query, &connections, 4);
    let found = connections.source("bq").unwrap().table(&query, "d", table).await?.expect("the mock's table");
    session.register_table(table, found).unwrap();
    let rows = collect(&session, sql).await?;
    let of =
        |batch: &datafusion::arrow::array::RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    Ok(rows.iter().flat_map(of).collect())
}

#[tokio::test]
async fn a_session_is_asked_for_once_as_google_documents_it() {
    let mock = MockGoogle::start().await;
    mock.stream(STREAM, [vec![Step::Rows(vec![7])]]);
    let keys = "billing_project = \"payer\"\ncompression = \"lz4\"";
    let before = std::time::SystemTime::now();
    assert_eq!(run(&mock, keys, "t", "SELECT id FROM t WHERE id > 5").await.unwrap(), [7]);
    let state = mock.state();
    let [request] = state.sessions.as_slice() else { panic!("{:?}", state.sessions) };
    assert_eq!((request.parent.as_str(), request.max_stream_count), ("projects/payer", 4));
    let session = request.read_session.as_ref().unwrap();
    assert_eq!((session.table.as_str(), session.data_format), ("projects/p/datasets/d/tables/t", 2));
    assert!(session.trace_id.starts_with("townlake:"));
    let options = session.read_options.as_ref().unwrap();
    assert_eq!(
        (options.selected_fields.as_slice(), options.row_restriction.as_str()),
        (&["id".to_string()][..], "(`id` > 5)")
    );
    assert_eq!(options.arrow_serialization_options.as_ref().unwrap().buffer_compression, 1);
    let moment = session.table_modifiers.as_ref().unwrap().snapshot_time.as_ref().unwrap();
    let before = before.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((before..before + 10).contains(&moment.seconds) && (0..1_000_000_000).contains(&moment.nanos));
    let head = &state.session_heads[0];
    assert_eq!(head.get("x-goog-request-params").unwrap(), "read_session.table=projects/p/datasets/d/tables/t");
    assert!(head.get("authorization").is_none(), "an emulator gets no token");
}

#[tokio::test]
async fn tables_of_a_query_are_of_one_moment() {
    let mock = MockGoogle::start().await;
    mock.stream(STREAM, [vec![Step::Rows(vec![1, 2])], vec![Step::Rows(vec![2, 3])]]);
    assert_eq!(run(&mock, "", "t", "SELECT a.id FROM t a JOIN t b ON a.id = b.id").await.unwrap(), [2]);
    let moments: Vec<_> =
        mock.state().sessions.iter().map(|asked| asked.read_session.clone().unwrap().table_modifiers).collect();
    assert!(moments.len() == 2 && moments[0].is_some() && moments[0] == moments[1], "{moments:?}");
}

#[tokio::test]
async fn a_broken_stream_goes_on_behind_its_last_row() {
    let mock = MockGoogle::start().await;
    let reset = || Step::Fails(Status::internal("stream terminated by RST_STREAM with code INTERNAL_ERROR"));
    mock.stream(
        STREAM,
        [
            vec![Step::Rows(vec![1, 2]), Step::Rows(vec![3]), Step::Fails(Status::unavailable("a server went away"))],
            vec![reset()],
            vec![Step::Rows(vec![4, 5]), reset()],
            vec![],
        ],
    );
    assert_eq!(run(&mock, "", "t", "SELECT id FROM t").await.unwrap(), [1, 2, 3, 4, 5]);
    let offsets: Vec<_> = mock.state().reads.iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [0, 3, 3, 5]);
}

#[tokio::test]
async fn what_fails_for_good_is_an_error_and_not_the_end() {
    let cases = [
        (Status::permission_denied("bigquery.readsessions.getData"), ErrorCode::SourceDenied, 1),
        (Status::not_found("session is gone"), ErrorCode::TableNotFound, 1),
        (Status::internal("a bug"), ErrorCode::SourceError, 1),
        (Status::unavailable("for ever"), ErrorCode::SourceUnavailable, 6),
    ];
    for (status, code, tries) in cases {
        let mock = MockGoogle::start().await;
        let fails = || vec![Step::Fails(status.clone())];
        let first = vec![Step::Rows(vec![1]), Step::Fails(status.clone())];
        mock.stream(STREAM, [first, fails(), fails(), fails(), fails(), fails(), fails()]);
        let error = run(&mock, "", "t", "SELECT id FROM t").await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains("catalog bq") && error.message().contains("read table d.t"), "{error}");
        assert_eq!(mock.state().reads.len(), tries, "{error}");
    }
}

#[tokio::test]
async fn what_is_no_batch_is_an_error() {
    let [schema, whole] = messages(&[1, 2, 3]);
    let cut = whole[..whole.len() - 20].to_vec();
    for step in [Step::Lie(vec![1]), Step::Bytes(vec![1, 2, 3]), Step::Bytes(cut), Step::Bytes(schema)] {
        let mock = MockGoogle::start().await;
        mock.stream(STREAM, [vec![step]]);
        let error = run(&mock, "", "t", "SELECT id FROM t").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DataCorrupt, "{error}");
    }
}

#[tokio::test]
async fn a_silent_stream_is_given_up_and_a_dropped_one_is_left() {
    let mock = MockGoogle::start().await;
    mock.stream(STREAM, [vec![Step::Rows(vec![1]), Step::Hangs]]);
    let error = run(&mock, "read_timeout = \"1s\"", "t", "SELECT id FROM t").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error}");
    assert!(error.message().contains("within 1 s: read table d.t") && error.is_retryable(), "{error}");
    assert!(error.hint().unwrap().contains("the limit is `read_timeout` in [catalogs.bq]"), "{error:?}");

    let mock = MockGoogle::start().await;
    mock.stream(STREAM, [vec![Step::Rows(vec![1]), Step::Hangs]]);
    let (connections, query) = (connections(&mock.keys()), query());
    let session = session(&query, &connections, 1);
    let table = connections.source("bq").unwrap().table(&query, "d", "t").await.unwrap().unwrap();
    session.register_table("t", table).unwrap();
    let plan = session.sql("SELECT id FROM t").await.unwrap().create_physical_plan().await.unwrap();
    let mut stream = execute_stream(plan, session.task_ctx()).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().num_rows(), 1);
    assert_eq!(mock.state().left, 0);
    drop(stream);
    let dropped = Instant::now();
    while mock.state().left == 0 {
        assert!(dropped.elapsed() < Duration::from_secs(2), "the server still sends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_empty_table_has_no_streams_and_a_busy_server_is_asked_again() {
    let mock = MockGoogle::start().await;
    mock.state().refusals = [Status::unavailable("busy"), Status::unavailable("busy")].into();
    assert_eq!(run(&mock, "", "t", "SELECT id FROM t").await.unwrap(), [0i64; 0]);
    assert_eq!(mock.state().sessions.len(), 3);
    mock.state().refusals = [Status::invalid_argument("Filter is 'hunter2'")].into();
    let error = run(&mock, "", "t", "SELECT id FROM t").await.unwrap_err();
    assert!(error.code() == ErrorCode::SourceError && !format!("{error:?}").contains("hunter2"), "{error:?}");
}

/// A view: a dry run when it is planned, a job under an id of ours when it is read, its result by the Storage API.
#[tokio::test]
async fn the_result_of_a_job_is_read_by_the_storage_api() {
    let mock = MockGoogle::start().await;
    mock.stream(STREAM, [vec![Step::Rows(vec![1, 2])]]);
    let dry = json!({"status": {"state": "DONE"}, "statistics": {"totalBytesProcessed": "500"}});
    mock.answer("POST /bigquery/v2/projects/p/jobs", [Answer(200, dry), Answer(200, json!({}))]);
    mock.answer(
        "GET /bigquery/v2/projects/p/queries/townlake-",
        [Answer(200, json!({"jobComplete": false})), Answer(503, json!({})), Answer(200, json!({"jobComplete": true}))],
    );
    let table = json!({"projectId": "p", "datasetId": "_hidden", "tableId": "anon1"});
    let done = json!({"status": {"state": "DONE"}, "configuration": {"query": {"destinationTable": table}}});
    mock.answer("GET /bigquery/v2/projects/p/jobs/townlake-", [Answer(200, done)]);
    assert_eq!(
        run(&mock, "maximum_bytes_billed = \"1 kB\"", "v", "SELECT id FROM v WHERE id < 9").await.unwrap(),
        [1, 2]
    );
    let bodies = mock.bodies("POST /bigquery/v2/projects/p/jobs");
    let [dry, job] = bodies.as_slice() else { panic!("{bodies:?}") };
    assert_eq!(dry["configuration"]["dryRun"], true);
    let sql = "SELECT `id` FROM `p`.`d`.`v` WHERE (`id` < 9)";
    assert_eq!(
        (dry["configuration"]["query"]["query"].as_str(), job["configuration"]["query"]["query"].as_str()),
        (Some(sql), Some(sql))
    );
    assert_eq!(job["configuration"]["query"]["useLegacySql"], false);
    assert_eq!(job["configuration"]["query"]["maximumBytesBilled"], "1000");
    assert_eq!(job["jobReference"]["location"], "EU");
    assert!(job["jobReference"]["jobId"].as_str().unwrap().starts_with("townlake-"), "{job}");
    let state = mock.state();
    assert_eq!(state.sessions[0].read_session.as_ref().unwrap().table, "projects/p/datasets/_hidden/tables/anon1");
    assert!(
        state.asked.iter().any(|asked| asked.line.contains("/queries/townlake-") && asked.line.contains("location=EU"))
    );
    assert!(!state.asked.iter().any(|asked| asked.line.contains("/cancel")), "it has ended");
}

#[tokio::test]
async fn jobs_are_guarded_taken_up_and_cancelled() {
    let mock = MockGoogle::start().await;
    let dry = |bytes: &str| Answer(200, json!({"statistics": {"totalBytesProcessed": bytes}}));
    mock.answer("POST /bigquery/v2/projects/p/jobs", [dry("2000")]);
    let error = run(&mock, "maximum_bytes_billed = \"1 kB\"", "v", "SELECT id FROM v").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted, "{error}");
    assert!(error.message().contains("2000 bytes") && error.message().contains("bq.d.v"), "{error}");
    assert_eq!(mock.bodies("POST /bigquery/v2/projects/p/jobs").len(), 1, "nothing was run");

    // A second try finds the job of the first, and what Google itself refuses is told.
    let taken = Answer(409, json!({"error": {"message": "Already Exists: Job", "errors": [{"reason": "duplicate"}]}}));
    mock.answer("POST /bigquery/v2/projects/p/jobs", [dry("1"), taken]);
    mock.answer("GET /bigquery/v2/projects/p/queries/townlake-", [Answer(200, json!({"jobComplete": true}))]);
    let refused =
        json!({"status": {"errorResult": {"reason": "bytesBilledLimitExceeded", "message": "Query exceeded limit"}}});
    mock.answer("GET /bigquery/v2/projects/p/jobs/townlake-", [Answer(200, refused)]);
    let error = run(&mock, "", "v", "SELECT id FROM v").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted, "{error}");
    assert!(error.message().contains("Query exceeded limit"), "{error}");

    // One that nobody waits for any more.
    mock.answer("POST /bigquery/v2/projects/p/jobs", [dry("1"), Answer(200, json!({}))]);
    mock.answer("GET /bigquery/v2/projects/p/queries/townlake-", [Answer(200, json!({"jobComplete": false}))]);
    let error = run(&mock, "job_timeout = \"1s\"", "v", "SELECT id FROM v").await.unwrap_err();
    assert!(error.code() == ErrorCode::SourceUnavailable && error.message().contains("within 1 s"), "{error}");
    assert!(error.hint().unwrap().contains("`job_timeout`"), "{error:?}");
    let since = Instant::now();
    while !mock.state().asked.iter().any(|asked| asked.line.contains("/cancel?location=EU")) {
        assert!(since.elapsed() < Duration::from_secs(2), "the job still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// (The emulator gives no tokens of further pages.)
#[tokio::test]
async fn long_lists_are_read_to_their_end_and_endless_ones_are_refused() {
    let mock = MockGoogle::start().await;
    let page = |names: &[&str], token: Option<&str>| {
        let table = |name: &&str| json!({"tableReference": {"datasetId": "d", "tableId": name}, "type": "TABLE"});
        Answer(200, json!({"tables": names.iter().map(table).collect::<Vec<_>>(), "nextPageToken": token}))
    };
    let path = "GET /bigquery/v2/projects/p/datasets/d/tables?";
    mock.answer(path, [page(&["c", "b"], Some("a token&")), page(&["a", "x/y"], None)]);
    let (source, query) = (connections(&mock.keys()).source("bq").unwrap(), query());
    let names: Vec<_> = source.list_tables(&query, "d").await.unwrap().into_iter().map(|table| table.name).collect();
    assert_eq!(names, ["a", "b", "c"], "sorted, and without what is no name");
    let asked = mock.state().asked.last().unwrap().line.clone();
    assert!(asked.contains("pageToken=a+token%26") && asked.contains("maxResults=1000"), "{asked}");
    mock.answer(path, [page(&["a"], Some("same"))]);
    let error = source.list_tables(&query, "d").await.unwrap_err();
    assert!(error.code() == ErrorCode::DataCorrupt && error.message().contains("without an end"), "{error}");
    let error = source.list_schemas(&query).await.unwrap_err();
    assert!(error.code() == ErrorCode::SourceError && error.message().contains("project p"), "{error}");
}
