//! What people do to their accounts and homes in the console, and what is refused to them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{
    Server,
    browser::{Browser, EMAIL, PASSWORD, mailed_code},
    text,
};

#[test]
fn an_account_is_made_by_a_mailed_code_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let browser = Browser::of(&server);
    let (status, page) = browser.post("/register", &[("name", " "), ("email", "bob"), ("password", "short")]);
    assert_eq!(status, 422);
    for field in ["name", "email", "password"] {
        assert!(page.contains(&format!("id=\"{field}-wrong\"")), "{field}: {page}");
    }
    assert!(page.contains("value=\"bob\"") && !page.contains("short"), "what was typed is kept, but for the password");

    let form = [("name", "Bob"), ("email", "bob@example.org"), ("password", PASSWORD)];
    let foreign = Browser { server: &server, cookies: browser.cookies.clone(), site: "cross-site" };
    assert_eq!(foreign.post("/register", &form).0, 403);
    let (status, to) = browser.post("/register", &form);
    assert_eq!(status, 303);
    let confirmation = to.strip_prefix("/register/code?confirmation=").unwrap();
    assert!(browser.page(&to).contains(confirmation));
    let confirm = |code: &str| browser.post("/register/code", &[("confirmation", confirmation), ("code", code)]);
    let (status, page) = confirm("aaaa-aaaa");
    assert!(status == 422 && page.contains("id=\"code-wrong\"") && page.contains(confirmation), "{page}");
    assert_eq!(browser.post("/sign-in", &[("email", "bob@example.org"), ("password", PASSWORD)]).0, 422, "not yet");
    assert_eq!(confirm(&mailed_code(folder.path(), "bob@example.org")).1, "/sign-in?done=registered");
    assert!(browser.page("/sign-in?done=registered").contains("Your account is ready"));
    assert_eq!(browser.post("/sign-in", &[("email", "bob@example.org"), ("password", PASSWORD)]).0, 303);
    assert!(browser.page("/account").contains(">verified<"));
    // An address that has an account is answered the same.
    let (status, to) = Browser::of(&server).post("/register", &form);
    assert!(status == 303 && to.starts_with("/register/code?confirmation="), "{to}");
}

#[test]
fn a_forgotten_password_is_replaced_by_a_mailed_code_and_ends_all_sign_ins() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let (signed_in, stranger) = (Browser::of(&server), Browser::of(&server));
    signed_in.set_up();
    let (status, page) = stranger.post("/reset", &[("email", "nobody")]);
    assert!(status == 422 && page.contains("id=\"email-wrong\""), "{page}");
    let (status, nowhere) = stranger.post("/reset", &[("email", "nobody@example.org")]);
    assert!(status == 303 && nowhere.starts_with("/reset/code?confirmation="), "nobody learns who has an account");
    let (_, to) = stranger.post("/reset", &[("email", EMAIL)]);
    let confirmation = to.split_once('=').unwrap().1;
    let code = mailed_code(folder.path(), EMAIL);
    let set = |code: &str, password: &str| {
        stranger.post("/reset/code", &[("confirmation", confirmation), ("code", code), ("password", password)])
    };
    let (status, page) = set(&code, "short");
    assert!(status == 422 && page.contains("id=\"password-wrong\""), "{page}");
    let (status, page) = set("aaaa-aaaa", "better horse");
    assert!(status == 422 && page.contains("id=\"code-wrong\""), "{page}");
    let foreign = Browser { server: &server, cookies: stranger.cookies.clone(), site: "cross-site" };
    let form = [("confirmation", confirmation), ("code", code.as_str()), ("password", "better horse")];
    assert_eq!(foreign.post("/reset/code", &form).0, 403);
    assert!(signed_in.is_in());
    assert_eq!(set(&code, "better horse").1, "/sign-in?done=reset");
    assert!(!signed_in.is_in());
    assert_eq!(stranger.post("/sign-in", &[("email", EMAIL), ("password", "better horse")]).0, 303);
    assert_eq!(set(&code, "third horse").0, 422, "a code works once");
}

/// A home of `ann`, in which `bob` is a manager and `eve` a guest.
struct Household<'a> {
    ann: Browser<'a>,
    bob: Browser<'a>,
    eve: Browser<'a>,
    home: String,
}

impl<'a> Household<'a> {
    fn of(server: &'a Server, folder: &std::path::Path) -> Self {
        let [ann, bob, eve] = ["ann", "bob", "eve"].map(|name| Browser::register(server, folder, name));
        let (_, made) = ann.post("/homes", &[("name", "Hill House")]);
        let home = made.split('?').next().unwrap().to_owned();
        for (role, guest) in [("manager", &bob), ("guest", &eve)] {
            let (_, page) = ann.post(&format!("{home}/invites"), &[("role", role), ("uses", "1")]);
            let code = page.split("<code class=\"block\">").nth(1).unwrap().split('<').next().unwrap();
            assert_eq!(guest.post("/homes/join", &[("code", code)]).0, 303);
        }
        Self { ann, bob, eve, home }
    }

    /// The path of a member's page.
    fn member(&self, name: &str) -> String {
        let page = self.ann.page(&self.home);
        let before = page.split(&format!("aria-label=\"Change {name}\"")).next().unwrap();
        before.rsplit("href=\"").next().unwrap().split('"').next().unwrap().to_owned()
    }

    /// The version that a form of a page carries.
    fn seen(&self, path: &str) -> String {
        seen(&self.ann.page(path))
    }
}

fn seen(page: &str) -> String {
    page.split("name=\"seen\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn a_member_is_changed_by_who_looks_at_the_home_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let house = Household::of(&server, folder.path());
    let eve = house.member("eve");
    let stale = house.seen(&eve);
    let change =
        |who: &Browser<'_>, role, ends, seen: &str| who.post(&eve, &[("role", role), ("ends", ends), ("seen", seen)]);
    let changed = (303, format!("{}?done=role", house.home));
    assert_eq!(change(&house.ann, "member", "86400", &stale), changed);
    let page = house.ann.page(&eve);
    assert!(page.contains(">member<") && page.contains("ends <time"), "{page}");

    // It was looked at before: nothing happens, and what was chosen is kept.
    let (status, page) = change(&house.ann, "guest", "7200", &stale);
    assert!(status == 409 && page.contains("has changed since") && page.contains("value=\"guest\" selected"), "{page}");
    assert!(house.ann.page(&eve).contains(">member<"));
    let (status, page) = house.ann.post(&format!("{eve}/remove"), &[("seen", &stale)]);
    assert!(
        status == 409 && page.contains("has changed since") && page.contains("Remove eve from Hill House?"),
        "{page}"
    );
    let (status, page) = change(&house.ann, "emperor", "x", &seen(&page));
    assert!(status == 422 && page.contains("id=\"role-wrong\""), "{page}");

    // A guest may not even look; a manager makes nobody a manager.
    assert_eq!(house.eve.get(&eve).status(), 403);
    assert_eq!(change(&house.eve, "manager", "", &house.seen(&eve)).0, 403);
    assert_eq!(change(&house.bob, "manager", "", &house.seen(&eve)).0, 403);
    let foreign = Browser { server: &server, cookies: house.ann.cookies.clone(), site: "cross-site" };
    let (status, page) = change(&foreign, "guest", "", &house.seen(&eve));
    assert!(status == 403 && page.contains("cross_site"), "{page}");

    let ask = format!("{eve}/remove");
    assert!(house.ann.page(&ask).contains("loses access"));
    let removed = house.ann.post(&ask, &[("seen", &house.seen(&ask))]);
    assert_eq!(removed, (303, format!("{}?done=removed", house.home)));
    assert_eq!(house.eve.get(&house.home).status(), 403);
    assert_eq!(house.ann.get(&eve).status(), 404);
}

#[test]
fn a_home_is_renamed_left_transferred_and_dissolved() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let house = Household::of(&server, folder.path());
    let home = &house.home;
    let (status, page) = house.ann.post(home, &[("name", " ")]);
    assert!(status == 422 && page.contains("id=\"name-wrong\""), "{page}");
    assert_eq!(house.eve.post(home, &[("name", "Eve's")]).0, 403);
    assert_eq!(house.bob.post(home, &[("name", "Lake House")]), (303, format!("{home}?done=renamed")));
    assert!(house.ann.page(home).contains("<h1>Lake House</h1>"));

    let own = format!("{}/own", house.member("bob"));
    assert_eq!(house.bob.get(&own).status(), 403);
    let eve_owns = format!("{}/own", house.member("eve"));
    assert_eq!(house.ann.post(&eve_owns, &[("seen", &house.seen(&eve_owns))]).0, 403, "a guest becomes no owner");
    let (status, page) = house.ann.post(&own, &[]);
    assert!(status == 409 && page.contains("confirm once more"), "nobody confirms what they were not asked: {page}");
    assert_eq!(house.ann.post(&own, &[("seen", &house.seen(&own))]).1, format!("{home}?done=transferred"));
    assert!(!house.ann.page(home).contains("Dissolve") && house.bob.page(home).contains("Dissolve"));

    let leave = format!("{home}/leave");
    assert!(house.eve.page(&leave).contains("Leave Lake House?"));
    assert_eq!(house.eve.post(&leave, &[]), (303, "/homes?done=left".to_owned()));
    assert_eq!(house.eve.get(&leave).status(), 403, "who is not in it learns nothing of it");
    let (status, page) = house.bob.post(&leave, &[]);
    assert!(status == 422 && page.contains("transfer the home"), "{page}");

    let dissolve = format!("{home}/dissolve");
    assert_eq!(house.ann.get(&dissolve).status(), 403);
    let page = house.bob.page(&dissolve);
    assert_eq!(house.ann.post(&leave, &[]).0, 303);
    let (status, again) = house.bob.post(&dissolve, &[("seen", &seen(&page))]);
    assert!(status == 409 && again.contains("all 1 lose"), "somebody has left meanwhile: {again}");
    assert_eq!(house.bob.post(&dissolve, &[("seen", &seen(&again))]), (303, "/homes?done=dissolved".to_owned()));
    assert_eq!(house.bob.get(home).status(), 403);
}

#[test]
fn an_account_is_deleted_once_it_owns_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let ann = Browser::register(&server, folder.path(), "ann");
    let (_, made) = ann.post("/homes", &[("name", "Hill House")]);
    assert!(ann.page("/account/delete").contains("Delete your account?"));
    let (status, page) = ann.post("/account/delete", &[]);
    assert!(status == 422 && page.contains("transfer them"), "{page}");
    let dissolve = format!("{}/dissolve", made.split('?').next().unwrap());
    assert_eq!(ann.post(&dissolve, &[("seen", &seen(&ann.page(&dissolve)))]).0, 303);
    assert_eq!(ann.post("/account/delete", &[]), (303, "/sign-in?done=deleted".to_owned()));
    assert!(ann.cookies.borrow().is_empty());
    assert_eq!(ann.post("/sign-in", &[("email", "ann@example.org"), ("password", PASSWORD)]).0, 422);
}

#[test]
fn the_vendors_people_are_chosen_by_administrators_who_cannot_dismiss_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = Browser::of(&server);
    admin.set_up();
    let bob = Browser::register(&server, folder.path(), "bob");
    assert_eq!(bob.get("/staff").status(), 403);
    let add = |who: &Browser<'_>, email, role| who.post("/staff", &[("email", email), ("role", role)]);
    assert_eq!(add(&bob, "bob@example.org", "admin").0, 403);
    let (status, page) = add(&admin, "bob", "emperor");
    assert!(status == 422 && page.contains("id=\"email-wrong\"") && page.contains("id=\"role-wrong\""), "{page}");
    let (status, page) = add(&admin, "nobody@example.org", "viewer");
    assert!(status == 422 && page.contains("Let them register first") && page.contains("nobody@example.org"), "{page}");
    assert_eq!(add(&admin, "BOB@example.org", "operator").0, 303);
    assert_eq!(bob.get("/devices").status(), 200);
    assert_eq!(bob.get("/staff").status(), 403, "an operator chooses nobody");

    let list = admin.page("/staff");
    assert!(list.contains(">operator<") && list.contains("(you)"), "{list}");
    let person = |name: &str| {
        let before = list.split(&format!(">{name}</a>")).next().unwrap();
        before.rsplit("href=\"").next().unwrap().split('"').next().unwrap().to_owned()
    };
    let (ann, bob_page) = (person("Ann"), person("bob"));
    let (status, page) = admin.post(&ann, &[("role", "viewer")]);
    assert!(status == 422 && page.contains("another administrator"), "{page}");
    let shut = format!("{bob_page}/shut-out");
    let (status, page) = admin.post(&shut, &[]);
    assert!(status == 409 && page.contains("confirm once more"), "{page}");
    assert_eq!(admin.post(&shut, &[("seen", &seen(&page))]), (303, "/staff?done=disabled".to_owned()));
    assert!(!bob.is_in());
    assert_eq!(bob.post("/sign-in", &[("email", "bob@example.org"), ("password", PASSWORD)]).0, 422);
    assert_eq!(admin.post(&format!("{bob_page}/let-in"), &[]).0, 303);
    assert_eq!(bob.post("/sign-in", &[("email", "bob@example.org"), ("password", PASSWORD)]).0, 303);
    assert_eq!(admin.post(&bob_page, &[("role", "none")]), (303, "/staff?done=staff".to_owned()));
    assert_eq!(bob.get("/devices").status(), 403);
    assert!(text(bob.get("/more")).contains("Your account"));
}
