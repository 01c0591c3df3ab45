//! `townlake standalone` from the environment alone, and what it says when it cannot start.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;
use tokio::process::Command;
use townlake_cli::args::ConnectArgs;
use townlake_cli::connection::Connection;
use townlake_tests::bed::binary;

use super::{Running, clean};

/// Ports are free ones, files lie in one folder, and there is one catalog, for everybody on this machine.
fn environment(command: &mut Command, folder: &Path) {
    let folder = folder.display();
    for (key, value) in [
        ("SERVER__FLIGHT", "127.0.0.1:0".to_string()),
        ("SERVER__HTTP", "127.0.0.1:0".to_string()),
        ("CLUSTER__INTERNAL", "127.0.0.1:0".to_string()),
        ("STORE__URL", format!("sqlite://{folder}/state.db")),
        ("EXECUTOR__LISTEN", "127.0.0.1:0".to_string()),
        ("EXECUTOR__HTTP", "127.0.0.1:0".to_string()),
        ("EXECUTOR__MEMORY", "1GB".to_string()),
        ("EXECUTOR__SPILL_DIR", format!("{folder}/spill")),
        ("AUTH__ANONYMOUS", "true".to_string()),
        ("CATALOGS__LAKE__TYPE", "iceberg".to_string()),
        ("CATALOGS__LAKE__CATALOG", "sql".to_string()),
        ("CATALOGS__LAKE__URI", format!("sqlite://{folder}/catalog.db")),
        ("CATALOGS__LAKE__WAREHOUSE", format!("file://{folder}/warehouse")),
        ("CATALOGS__LAKE__WRITERS", "[\"anonymous\"]".to_string()),
    ] {
        command.env(format!("TOWNLAKE_{key}"), value);
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("townlake-node-").tempdir().expect("a temporary folder")
}

/// The Flight SQL door that a log line names.
fn door(log: &str) -> String {
    let plain: String = log.lines().find(|line| line.contains("coordinator listens")).expect("the line").to_string();
    let address = plain.split_once("flight=").expect("the door").1;
    address.split_whitespace().next().expect("an address").to_string()
}

async fn connect(log: &str) -> Connection {
    let args = ConnectArgs { url: door(log), user: None, password: None, token: None };
    Connection::open(&args).await.expect("connect")
}

/// The node as the user `nobody`, on a root that is mounted read-only but for `folder`; as the user of the test run where
/// that may not do so.
fn confined(folder: &Path) -> Command {
    let may_mount = || {
        let mut probe = std::process::Command::new("unshare");
        probe.args(["--mount", "true"]).stdin(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    let nobody = User::from_name("nobody").ok().flatten();
    let (true, true, Some(nobody)) = (Uid::effective().is_root(), may_mount(), nobody) else {
        eprintln!("not root, or no mounts: the node runs as the user of the test, on a root that can be written");
        let mut command = clean(binary(), folder);
        command.arg("standalone");
        return command;
    };
    let program = copy_of_binary(folder);
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).expect("close the folder");
    for path in [folder, program.as_path()] {
        chown(path, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("chown");
    }
    let script = format!(
        "set -e; mount --make-rprivate /; mount --bind {0} {0}; mount -o remount,bind,ro /; cd /; \
         exec setpriv --reuid {1} --regid {2} --clear-groups --no-new-privs {3} standalone",
        folder.display(),
        nobody.uid,
        nobody.gid,
        program.display()
    );
    let mut command = clean("unshare", folder);
    command.args(["--mount", "sh", "-c", &script]);
    command
}

/// Where `nobody` can reach it: the build may lie in a home that is closed.
fn copy_of_binary(folder: &Path) -> PathBuf {
    let copy = folder.join("townlake");
    std::fs::copy(binary(), &copy).expect("copy the binary");
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_needs_no_file_no_root_and_one_folder() {
    let (outside, inside) = (folder(), folder());
    let mut command = confined(inside.path());
    environment(&mut command, inside.path());
    let mut node = Running::start(command, outside.path());
    let log = node.says("coordinator listens").await;
    let first = log.lines().next().unwrap_or_default();
    assert!(first.contains("listens") && first.contains("127.0.0.1:"), "the first line says where: {log}");
    if Uid::effective().is_root() && inside.path().join("townlake").exists() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).expect("read its status");
        let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("a line");
        assert!(!uid.split_whitespace().skip(1).any(|id| id == "0"), "{uid}");
    }

    let client = connect(&log).await;
    for sql in ["CREATE SCHEMA lake.s", "CREATE TABLE lake.s.t AS SELECT value AS id FROM generate_series(1, 1000)"] {
        client.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}\n{}", node.output()));
    }
    client.run("SET SESSION execution = 'cluster'").await.expect("set");
    let (_, rows) = client.collect("SELECT count(*), sum(id) FROM lake.s.t").await.expect("count");
    assert!(format!("{rows:?}").contains("500500"), "{rows:?}");
    drop(client);

    node.signal(Signal::SIGTERM);
    let status = node.end(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(0), "{}", node.output());
    let faults: Vec<_> = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_terminal_stops_it_and_nohup_keeps_it() {
    for ignored in [false, true] {
        let folder = folder();
        // what nohup does
        let trap = if ignored { "trap '' HUP; " } else { "" };
        let mut command = clean("sh", folder.path());
        command.args(["-c", &format!("{trap}exec '{}' standalone", binary().display())]);
        environment(&mut command, folder.path());
        let mut node = Running::start(command, folder.path());
        // at once, as soon as somebody can know that it is there
        let log = node.says("coordinator listens").await;
        node.signal(Signal::SIGHUP);
        if ignored {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (_, rows) = connect(&log).await.collect("SELECT 1").await.expect("it serves on");
            assert_eq!(rows[0].num_rows(), 1);
            node.signal(Signal::SIGTERM);
        }
        assert_eq!(node.end(Duration::from_secs(30)).await.code(), Some(0), "{}", node.output());
        let reason = if ignored { "stopping on SIGTERM" } else { "stopping on SIGHUP" };
        assert!(node.output().contains(reason), "{}", node.output());
    }
}

/// Runs a node that must not start; what it says.
async fn refused(prepare: impl FnOnce(&mut Command)) -> String {
    let folder = folder();
    let mut command = clean(binary(), folder.path());
    command.arg("standalone");
    environment(&mut command, folder.path());
    prepare(&mut command);
    let mut node = Running::start(command, folder.path());
    assert_eq!(node.end(Duration::from_secs(30)).await.code(), Some(1), "{}", node.output());
    node.output()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_it_from_starting_is_named() {
    let said = refused(|command| {
        command.args(["--config", "/nowhere/townlake.toml"]);
    });
    let said = said.await;
    assert!(said.contains("error: CONFIG_INVALID: ") && said.contains("/nowhere/townlake.toml"), "{said}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = taken.local_addr().expect("its address").to_string();
    for (key, name) in [
        ("SERVER__FLIGHT", "server.flight"),
        ("SERVER__HTTP", "server.http"),
        ("CLUSTER__INTERNAL", "cluster.internal"),
        ("EXECUTOR__LISTEN", "executor.listen"),
    ] {
        let said = refused(|command| {
            command.env(format!("TOWNLAKE_{key}"), &address);
        });
        let said = said.await;
        let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(error.contains(name) && error.contains(&address) && error.contains("in use"), "{said}");
    }

    let said = refused(|command| {
        command.env("TOWNLAKE_SERVRE__FLIGHT", "127.0.0.1:0");
    });
    assert!(said.await.contains("did you mean `server`"));
    let said = refused(|command| {
        command.env("TOWNLAKE_CLUSTER__MEMBERSHIP", "etcd");
    });
    let said = said.await;
    assert!(said.contains("CONFIG_INVALID") && said.contains("townlake coordinator"), "{said}");
}
