//! Passwords and tokens, on every call.

use townlake_common::ErrorCode;

use super::{PASSWORD, TOKEN, assert_code, cells, client, spec, stranger, typed};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let town = spec().start().await;
    let wrong = town.try_connect("ann", "not her password").await.err().expect("a wrong password");
    let unknown = town.try_connect("nobody", "not her password").await.err().expect("an unknown user");
    assert_code(&wrong, ErrorCode::Unauthenticated, "wrong password");
    assert_eq!(wrong.to_string(), unknown.to_string());
    for text in [wrong.to_string(), format!("{wrong:?}")] {
        assert!(!text.contains("not her password") && !text.contains("argon2"), "{text}");
    }
    for (user, password) in [("ann", ""), ("", PASSWORD), ("ANN", PASSWORD), ("ci", TOKEN), ("analysts", PASSWORD)] {
        let refused = town.try_connect(user, password).await.err().unwrap_or_else(|| panic!("{user} came in"));
        assert_code(&refused, ErrorCode::Unauthenticated, user);
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_door_and_a_wrong_one_does_not() {
    let town = spec().start().await;
    let ci = town.connect_with_token(TOKEN).await;
    assert_eq!(cells(&ci, "SHOW CATALOGS").await, ["lake", "system"]);
    let hash = townlake_governance::hash_token(TOKEN);
    for token in ["fedcba9876543210fedcba9876543210", &TOKEN[..31], &hash, "townlake-session.", "townlake-session.AAAA"]
    {
        let refused = town.try_connect_with_token(token).await.err().expect("a wrong token");
        let expected =
            if token.starts_with("townlake-session") { ErrorCode::SessionNotFound } else { ErrorCode::Unauthenticated };
        assert_code(&refused, expected, token);
        assert!(!refused.to_string().contains(token), "{refused}");
    }
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_without_credentials() {
    let town = spec().start().await;
    let mut nobody = stranger(&town).await;
    let refused = [
        typed(nobody.execute("SELECT 1".to_string(), None).await.expect_err("execute")),
        typed(nobody.get_catalogs().await.expect_err("GetCatalogs")),
        typed(nobody.get_table_types().await.expect_err("GetTableTypes")),
        typed(nobody.get_sql_info(vec![]).await.expect_err("GetSqlInfo")),
        typed(nobody.prepare("SELECT 1".to_string(), None).await.expect_err("prepare")),
        typed(nobody.execute_update("SELECT 1".to_string(), None).await.expect_err("update")),
    ];
    for error in refused {
        assert_code(&error, ErrorCode::Unauthenticated, "no credentials");
    }
    let actions = nobody.inner_mut().list_actions(arrow_flight::Empty {}).await.expect_err("ListActions");
    assert_eq!(actions.code(), tonic::Code::Unauthenticated);

    // A ticket is no credential.
    let mut ann = client(&town, "ann").await;
    let info = ann.execute("SELECT 1".to_string(), None).await.expect("plan");
    let refused = super::read(&mut nobody, &info).await.expect_err("a ticket alone");
    assert_code(&refused, ErrorCode::Unauthenticated, "a ticket without credentials");
    assert_eq!(super::read(&mut ann, &info).await.expect("ann's own").concat(), ["1"]);
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_closed_session_is_worth_nothing() {
    let town = spec().start().await;
    let mut ann = client(&town, "ann").await;
    let token = ann.token().cloned().expect("a session token");
    let close = arrow_flight::Action::new("CloseSession", Vec::new());
    ann.do_action(close).await.expect("close the session");
    let refused = town.try_connect_with_token(&token).await.err().expect("a closed session");
    assert_code(&refused, ErrorCode::SessionNotFound, "a closed session");
    // nor is it one in another town, which has another key
    let other = spec().start().await;
    let mut bob = client(&town, "bob").await;
    let token = bob.token().cloned().expect("a session token");
    bob.execute("SELECT 1".to_string(), None).await.expect("good here");
    let refused = other.try_connect_with_token(&token).await.err().expect("another cluster's");
    assert_code(&refused, ErrorCode::SessionNotFound, "a session of another cluster");
    town.stop().await;
    other.stop().await;
}
