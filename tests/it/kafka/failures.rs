//! Brokers that are down, silent, hostile, or do not let us in; TLS.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use townlake_common::{Error, ErrorCode, Result};
use townlake_tests::kafka::{Kafka, PASSWORD};

use super::{Bus, cells, collect, connections, query, session};

fn tells_no_secret(error: &Error) {
    let told = format!("{error} {error:?} {}", error.to_wire());
    assert!(!told.contains(PASSWORD) && !told.contains("wrong-password"), "{told}");
}

/// The number of records of topic `t`.
async fn count(brokers: &str, keys: &str, table: &str) -> Result<String> {
    let sources = connections(brokers, keys);
    let query = query();
    let session = session(&query, &sources, 2);
    let found = sources.source("bus").unwrap().table(&query, "default", table).await?;
    session.register_table("t", found.expect("the topic is there")).unwrap();
    Ok(cells(&collect(&session, "SELECT count(*) FROM t").await?).remove(0).remove(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_is_named_and_a_restart_is_survived() {
    let Some(server) = Kafka::start("a_broker_that_is_down") else { return };
    server.python(
        "topic('t', 2)\np = producer()\nfor n in range(40): p.produce('t', value='x', partition=n % 2)\np.flush()",
    );
    let sources = connections(&server.broker(), "connect_timeout = \"2s\"\nrequest_timeout = \"20s\"");
    let read = async || {
        let query = query();
        let session = session(&query, &sources, 2);
        let table = sources.source("bus").unwrap().table(&query, "default", "t").await?;
        session.register_table("t", table.unwrap()).unwrap();
        Ok::<_, Error>(cells(&collect(&session, "SELECT count(*) FROM t").await?))
    };
    assert_eq!(read().await.unwrap(), [["40"]]);

    server.stop();
    let error = read().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error}");
    assert!(error.is_retryable(), "{error}");
    assert!(error.message().contains("catalog bus") && error.message().contains(&server.broker()), "{error}");

    server.restart();
    // The connections of before are dead, and a partition may have no leader for a moment.
    assert_eq!(read().await.unwrap(), [["40"]]);

    // Between planning and reading: a broker that comes back in time is waited for.
    let query = query();
    let session = session(&query, &sources, 2);
    let table = sources.source("bus").unwrap().table(&query, "default", "t").await.unwrap();
    session.register_table("t", table.unwrap()).unwrap();
    let plan = session.sql("SELECT _offset FROM t").await.unwrap().create_physical_plan().await.unwrap();
    server.stop();
    let reading = tokio::spawn({
        let context = session.task_ctx();
        async move { datafusion::physical_plan::collect(plan, context).await }
    });
    tokio::task::block_in_place(|| server.restart());
    let rows = reading.await.unwrap().unwrap();
    assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 40);
}

#[tokio::test]
async fn logins_are_made_or_refused() {
    let script = "topic('logins')\np = producer()\nfor n in range(5): p.produce('logins', value='x')\np.flush()";
    let Some(bus) = Bus::of("logins", script, "") else { return };
    let broker = bus.server.sasl_broker();
    let login = |mechanism: &str, user: &str, password: &str| {
        format!(
            "sasl = \"{mechanism}\"\nusername = \"{user}\"\npassword = \"{password}\"\nconnect_timeout = \"5s\"\nrequest_timeout = \"3s\""
        )
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        assert_eq!(count(&broker, &login(mechanism, "reader", PASSWORD), "logins").await.unwrap(), "5", "{mechanism}");
        for (user, password) in [("reader", "wrong-password"), ("nobody", PASSWORD)] {
            let error = count(&broker, &login(mechanism, user, password), "logins").await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::SourceDenied, "{mechanism} {user}: {error}");
            assert!(error.message().contains("catalog bus") && !error.is_retryable(), "{error}");
            assert!(!format!("{error:?}").contains("nobody"), "{error:?}");
            tells_no_secret(&error);
        }
    }
    // A login that nobody asks for, and none where one is wanted.
    let error = count(&bus.server.broker(), &login("PLAIN", "reader", PASSWORD), "logins").await.unwrap_err();
    assert!(matches!(error.code(), ErrorCode::SourceDenied | ErrorCode::SourceUnavailable), "{error}");
    tells_no_secret(&error);
    let error = count(&broker, "request_timeout = \"2s\"", "logins").await.unwrap_err();
    assert!(matches!(error.code(), ErrorCode::SourceDenied | ErrorCode::SourceUnavailable), "{error}");
}

#[tokio::test]
async fn tls_is_verified_and_certificates_are_shown() {
    let script = "topic('tls')\np = producer()\nfor n in range(5): p.produce('tls', value='x')\np.flush()";
    let Some(bus) = Bus::of("tls", script, "") else { return };
    let [secure, mutual] = bus.server.tls_brokers();
    let file = |name: &str| bus.server.file(name).display().to_string();
    let ca = format!("tls_ca = \"{}\"\nrequest_timeout = \"3s\"", file("ca.crt"));
    let identity = format!("tls_cert = \"{}\"\ntls_key = \"{}\"", file("client.crt"), file("client.key"));
    for keys in
        ["tls = \"require\"".to_string(), format!("tls = \"require\"\n{ca}"), format!("tls = \"verify-full\"\n{ca}")]
    {
        assert_eq!(count(&secure, &keys, "tls").await.unwrap(), "5", "{keys}");
    }
    assert_eq!(count(&mutual, &format!("tls = \"verify-full\"\n{ca}\n{identity}"), "tls").await.unwrap(), "5");
    // An authority that nobody knows; a name that is not in the certificate; no certificate of ours.
    let wrong_name = secure.replace("127.0.0.1", "localhost");
    for (broker, keys) in [
        (&secure, "tls = \"verify-full\"\nrequest_timeout = \"3s\"".to_string()),
        (&wrong_name, format!("tls = \"verify-full\"\n{ca}")),
        (&mutual, format!("tls = \"verify-full\"\n{ca}")),
    ] {
        let error = count(broker, &keys, "tls").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceDenied, "{broker}: {error}");
        assert!(error.message().contains("TLS") && !error.is_retryable(), "{error}");
    }
    // TLS where there is none, and none where there is.
    for (broker, keys) in [(bus.server.broker(), "tls = \"require\""), (secure, "")] {
        let keys = format!("{keys}\nconnect_timeout = \"3s\"\nrequest_timeout = \"3s\"");
        let error = count(&broker, &keys, "tls").await.unwrap_err();
        assert!(matches!(error.code(), ErrorCode::SourceDenied | ErrorCode::SourceUnavailable), "{keys}: {error}");
    }
}

#[tokio::test]
async fn a_topic_that_we_may_not_read_is_denied() {
    let Some(server) = Kafka::start_with(
        "denied",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
        super.users=User:ANONYMOUS\n",
    ) else {
        return;
    };
    server.python("topic('secret')\ntopic('open')\np = producer()\np.produce('secret', value='x')\np.produce('open', value='x')\np.flush()\n\
        from confluent_kafka.admin import AclBinding, ResourceType, ResourcePatternType, AclOperation, AclPermissionType\n\
        def allow(topic, operation): done(admin.create_acls([AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, \
        'User:reader', '*', operation, AclPermissionType.ALLOW)]))\n\
        allow('open', AclOperation.READ)\nallow('secret', AclOperation.DESCRIBE)\ntime.sleep(0.5)");
    let keys = format!("sasl = \"PLAIN\"\nusername = \"reader\"\npassword = \"{PASSWORD}\"\nrequest_timeout = \"5s\"");
    let broker = server.sasl_broker();
    assert_eq!(count(&broker, &keys, "open").await.unwrap(), "1");
    let error = count(&broker, &keys, "secret").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
    assert!(error.message().contains("TOPIC_AUTHORIZATION_FAILED") && error.message().contains("secret"), "{error}");
    tells_no_secret(&error);
    let source = connections(&broker, &keys).source("bus").unwrap();
    let listed = source.list_tables(&query(), "default").await.unwrap();
    let names: Vec<_> = listed.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["open", "secret"], "what may be described");
}

/// A server that accepts connections, reads what comes and answers each time with these bytes.
fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            std::thread::spawn(move || {
                let mut bytes = [0; 1000];
                while socket.read(&mut bytes).is_ok_and(|read| read > 0) {
                    if socket.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn silent_and_hostile_servers_end_in_an_error_and_in_time() {
    for (answer, code) in [
        (&b""[..], ErrorCode::SourceUnavailable),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ErrorCode::DataCorrupt),
        (b"\x7f\xff\xff\xff", ErrorCode::DataCorrupt),
        (b"\xff\xff\xff\xff", ErrorCode::DataCorrupt),
        (b"\x00\x0f\xff\xff\x00", ErrorCode::SourceUnavailable),
        (b"\x00\x00\x00\x02\x00\x00", ErrorCode::DataCorrupt),
        (b"\x00\x00\x00\x04\x00\x00\x00\x63", ErrorCode::DataCorrupt),
        (b"\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\x7f\xff\xff\xff", ErrorCode::DataCorrupt),
        (b"\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00", ErrorCode::NotSupported),
    ] {
        let begun = Instant::now();
        let keys = "connect_timeout = \"500ms\"\nrequest_timeout = \"1s\"";
        let error = count(&answering(answer), keys, "t").await.unwrap_err();
        assert_eq!(error.code(), code, "{answer:?}: {error}");
        assert!(error.message().contains("catalog bus"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{answer:?}: {:?}", begun.elapsed());
    }
}
