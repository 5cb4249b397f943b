//! Signing in to the console, as a browser does it: forms, cookies, and where a request comes from.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{
    Server,
    browser::{Browser, EMAIL, PASSWORD},
    text,
};

#[test]
fn from_the_printed_password_to_an_account_and_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let browser = Browser::of(&server);
    let once = server.password().unwrap();
    let (status, page) =
        browser.post("/setup", &[("once", once), ("name", ""), ("email", "ann"), ("password", "short")]);
    assert_eq!(status, 422);
    for field in ["name", "email", "password"] {
        assert!(page.contains(&format!("id=\"{field}-wrong\"")), "{field}: {page}");
    }
    assert!(!page.contains("short") && !page.contains(once), "no password is sent back");
    let form = [("once", "wrong"), ("name", "Ann"), ("email", EMAIL), ("password", PASSWORD)];
    let (status, page) = browser.post("/setup", &form);
    assert!(status == 422 && page.contains("id=\"once-wrong\""), "{page}");
    browser.set_up();
    assert!(browser.is_in());
    let account = text(browser.get("/account"));
    assert!(account.contains(EMAIL) && account.contains("this one") && account.contains("admin"), "{account}");
    assert_eq!(browser.post("/account", &[("name", "Ann <b>B</b>")]), (303, "/account?done=name".to_owned()));
    assert!(text(browser.get("/account")).contains("Ann &#60;b&#62;B"), "a name is text");

    assert_eq!(browser.post("/sign-out", &[]), (303, "/sign-in".to_owned()));
    assert!(browser.cookies.borrow().is_empty() && !browser.is_in());
    let (status, page) = browser.post("/sign-in", &[("email", EMAIL), ("password", "wrong horse"), ("next", "/audit")]);
    assert!(status == 422 && page.contains("id=\"password-wrong\"") && page.contains("value=\"/audit\""), "{page}");
    let sign_in = |next| browser.post("/sign-in", &[("email", EMAIL), ("password", PASSWORD), ("next", next)]);
    assert_eq!(sign_in("https://evil.example/"), (303, "/".to_owned()));
    assert_eq!(sign_in("/audit"), (303, "/audit".to_owned()));
}

#[test]
fn what_another_site_makes_a_browser_send_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let own = Browser::of(&server);
    own.set_up();
    let foreign = Browser { server: &server, cookies: own.cookies.clone(), site: "cross-site" };
    let form = [("id", "lamp"), ("name", "Lamp")];
    let (status, page) = foreign.post("/products", &form);
    assert!(status == 403 && page.contains("cross_site"), "{page}");
    // Nor is somebody signed in, out or renewed by it.
    assert_eq!(foreign.post("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).0, 403);
    assert_eq!(foreign.post("/sign-out", &[]).0, 403);
    foreign.cookies.borrow_mut().remove("session");
    assert_eq!(foreign.post("/products", &form).1, "/sign-in");
    assert!(own.is_in() && !text(own.get("/products")).contains("/products/lamp\""));
    assert_eq!(own.post("/products", &form).0, 303);
}

#[test]
fn a_session_goes_on_while_it_is_used_and_ends_everywhere_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let browser = Browser::of(&server);
    browser.set_up();
    let before = browser.cookies.borrow().clone();
    browser.cookies.borrow_mut().remove("session");
    let form = [("id", "lamp"), ("name", "Lamp")];
    assert_eq!(browser.post("/products", &form).0, 303, "a form that was filled in for long is not lost");
    let after = browser.cookies.borrow().clone();
    assert!(after.contains_key("session") && after["refresh"] != before["refresh"]);
    // Another tab shows the old one at the same time.
    let tab = Browser::of(&server);
    tab.cookies.borrow_mut().insert("refresh".to_owned(), before["refresh"].clone());
    assert!(tab.is_in());
    assert_eq!(tab.cookies.borrow()["refresh"], after["refresh"]);

    let other = Browser::of(&server);
    assert_eq!(other.post("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).0, 303);
    assert_eq!(browser.post("/account/sign-out-everywhere", &[]), (303, "/sign-in".to_owned()));
    assert!(!other.is_in() && !tab.is_in());
    other.cookies.borrow_mut().remove("session");
    assert!(!other.is_in(), "its refresh token is dead too");
    assert!(other.cookies.borrow().is_empty());
}

#[test]
fn another_password_ends_the_other_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let (browser, other) = (Browser::of(&server), Browser::of(&server));
    browser.set_up();
    assert_eq!(other.post("/sign-in", &[("email", EMAIL), ("password", PASSWORD)]).0, 303);
    let change = |present, password| browser.post("/account/password", &[("present", present), ("password", password)]);
    let (status, page) = change("wrong horse", "better horse");
    assert!(status == 422 && page.contains("id=\"present-wrong\""), "{page}");
    let (status, page) = change(PASSWORD, "short");
    assert!(status == 422 && page.contains("id=\"password-wrong\""), "{page}");
    assert_eq!(change(PASSWORD, "better horse"), (303, "/account?done=password".to_owned()));
    assert!(browser.is_in() && !other.is_in());
}

#[test]
fn a_home_is_made_shared_by_a_code_joined_and_left() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let owner = Browser::of(&server);
    owner.set_up();
    assert!(text(owner.get("/homes")).contains("You are in no home yet"));
    let (status, page) = owner.post("/homes", &[("name", " ")]);
    assert!(status == 422 && page.contains("id=\"name-wrong\""), "{page}");
    let (status, made) = owner.post("/homes", &[("name", "<script>alert(1)</script>")]);
    assert_eq!(status, 303);
    let home = made.split('?').next().unwrap();
    let page = text(owner.get(home));
    assert!(page.contains("Ann") && page.contains("owner") && !page.contains("<script>alert"), "a name is text");

    let (status, page) =
        owner.post(&format!("{home}/invites"), &[("role", "guest"), ("uses", "1"), ("access", "7200")]);
    assert!(status == 200 && page.contains("<svg class=\"qr\"") && page.contains("<path d=\"M"), "{page}");
    let code = page.split("<code class=\"block\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let open = text(owner.get(home));
    assert!(open.contains(">open<") && !open.contains(&code), "a code is shown once");
    let (status, page) = owner.post("/homes/join", &[("code", &code)]);
    assert!(status == 422 && page.contains("in this home already"), "{page}");
    let (status, page) = owner.post("/homes/join", &[("code", "0000-0000")]);
    assert!(status == 422 && page.contains("id=\"code-wrong\""), "{page}");
    let (status, page) = owner.post(&format!("{home}/devices"), &[("code", "0000-0000")]);
    assert!(status == 422 && page.contains("id=\"code-wrong\""), "{page}");
    let invite = open.split(&format!("{home}/invites/")).nth(1).unwrap().split('/').next().unwrap();
    assert_eq!(owner.post(&format!("{home}/invites/{invite}/withdraw"), &[]), (303, format!("{home}?done=withdrawn")));
    let (status, page) = owner.post(&format!("{home}/leave"), &[]);
    assert!(status == 422 && page.contains("transfer the home"), "{page}");
}
