//! The console through the server's binary, as a browser without scripts sees it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{Server, text};
use ureq::{Body, http::Response};

/// A visitor with the first administrator's token.
struct Visitor<'a> {
    server: &'a Server,
    token: String,
}

impl<'a> Visitor<'a> {
    fn of(server: &'a Server) -> Self {
        Self { server, token: text(server.sign_in(server.password().unwrap())) }
    }

    fn get(&self, path: &str) -> Response<Body> {
        let request = support::agent().get(self.server.url(path)).header("Accept", "text/html");
        request.header("Authorization", format!("Bearer {}", self.token)).call().unwrap()
    }

    fn page(&self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status(), 200, "{path}");
        text(answer)
    }

    fn post(&self, path: &str, form: &[(&str, &str)]) -> Response<Body> {
        let request = support::agent().post(self.server.url(path)).header("Accept", "text/html");
        let request = request.header("Authorization", format!("Bearer {}", self.token));
        request.send_form(form.iter().copied()).unwrap()
    }

    fn status(&self, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let answer = self.post(path, form);
        let location = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
        (answer.status().as_u16(), location.unwrap_or_else(|| text(answer)))
    }
}

const PAGES: [(&str, &str); 10] = [
    ("/", "<title>Overview"),
    ("/devices", "<title>Devices"),
    ("/products", "<title>Products"),
    ("/rollouts", "<title>Rollouts"),
    ("/releases", "<title>Releases"),
    ("/webhooks", "<title>Webhooks"),
    ("/staff", "<title>People"),
    ("/more", "<title>More"),
    ("/audit", "<title>Audit log"),
    ("/audit?refused=1&text=sign%20in", "<title>Audit log"),
];

#[test]
fn every_page_is_strict_whole_and_has_a_title() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let visitor = Visitor::of(&server);
    for (path, title) in PAGES {
        let answer = visitor.get(path);
        assert_eq!(answer.status(), 200, "{path}");
        assert_strict(path, &answer);
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
        let page = text(answer);
        assert!(page.contains(title), "{path}: {page}");
        assert_whole(path, &page);
    }
}

fn assert_strict(path: &str, answer: &Response<Body>) {
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    let policy = header("content-security-policy");
    for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{path}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
    assert_eq!(header("referrer-policy"), "same-origin", "{path}");
    assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{path}");
    assert!(header("permissions-policy").contains("camera=()"), "{path}");
}

/// No inline script or style, one heading of the first rank, a label for each field, a caption for each table.
fn assert_whole(path: &str, page: &str) {
    assert!(!page.contains("<style") && !page.contains(" style="), "{path}");
    assert!(page.matches("<script").count() == page.matches("<script defer src=\"/console/assets/").count(), "{path}");
    for handler in [" onclick=", " onload=", " onerror=", "javascript:", "hx-on"] {
        assert!(!page.contains(handler), "{path}: {handler}");
    }
    for from in [" src=\"http", " href=\"http", " action=\"http", " src=\"//", " href=\"//"] {
        assert!(!page.contains(from), "{path}: something from elsewhere");
    }
    assert_eq!(page.matches("<h1").count(), 1, "{path}");
    assert_eq!(page.matches("<table").count(), page.matches("<caption").count(), "{path}");
    for field in page.split('<').filter(|tag| ["input ", "select ", "textarea "].iter().any(|of| tag.starts_with(of))) {
        let id = field.split(" id=\"").nth(1).and_then(|rest| rest.split('"').next());
        let labelled = id.is_some_and(|id| page.contains(&format!("<label for=\"{id}\"")));
        let needs_none = field.contains("type=\"hidden\"") || field.contains("type=\"checkbox\"");
        assert!(labelled || needs_none, "{path}: {field}");
    }
}

#[test]
fn a_stranger_is_sent_to_sign_in_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let stranger = |path: &str| support::agent().get(server.url(path)).header("Accept", "text/html").call().unwrap();
    let sent = stranger("/devices?state=online");
    assert_eq!(sent.status(), 303);
    assert_eq!(sent.headers()["location"], "/sign-in?next=%2Fdevices%3Fstate%3Donline");
    assert_strict("/devices", &sent);
    let sign_in = text(stranger("/sign-in?next=%2Fdevices%3Fstate%3Donline"));
    assert!(sign_in.contains("name=\"next\" value=\"/devices?state=online\""), "{sign_in}");
    assert_whole("/sign-in", &sign_in);
    assert_whole("/setup", &text(stranger("/setup")));
    // A program is told plainly, and the API is as it was for browsers too.
    assert_eq!(support::agent().get(server.url("/devices")).call().unwrap().status(), 401);
    assert_eq!(stranger("/v1/devices").headers()["content-type"], "application/problem+json");
    let openapi = text(stranger("/openapi.json"));
    assert!(openapi.contains("/v1/devices") && !openapi.contains("\"/devices\""));
}

#[test]
fn files_are_kept_for_ever_under_the_hash_of_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let page = text(support::agent().get(server.url("/sign-in")).call().unwrap());
    let files: Vec<&str> = page.split('"').filter(|part| part.starts_with("/console/assets/")).collect();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let answer = support::agent().get(server.url(file)).call().unwrap();
        assert_eq!(answer.status(), 200, "{file}");
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"), "{file}");
        assert_strict(file, &answer);
        let (_, name) = file.rsplit_once('/').unwrap();
        let stale = server.url(&format!("/console/assets/0000000000000000/{name}"));
        assert_eq!(support::agent().get(stale).call().unwrap().status(), 404, "{file}");
    }
}

#[test]
fn from_a_product_to_its_units_by_forms() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let visitor = Visitor::of(&server);
    assert!(visitor.page("/devices").contains("No devices yet"));

    let (status, page) = visitor.status("/products", &[("id", "a lamp"), ("name", "")]);
    assert_eq!(status, 422);
    assert!(page.contains("id=\"id-wrong\"") && page.contains("id=\"name-wrong\""), "{page}");
    assert!(page.contains("value=\"a lamp\""), "what was typed is kept");
    let name = "<script>alert(1)</script> & \"Lamp\"";
    let made = visitor.status("/products", &[("id", "lamp"), ("name", name), ("encoding", "cbor")]);
    assert_eq!(made, (303, "/products/lamp?done=product".to_owned()));
    let page = visitor.page("/products/lamp?done=product");
    assert!(page.contains("The product is saved.") && page.contains("CBOR"));
    assert!(!page.contains("<script>alert"), "a name is text");
    assert_whole("/products/lamp", &page);
    let (status, page) = visitor.status("/products", &[("id", "lamp"), ("name", "Other")]);
    assert!(status == 422 && page.contains("choose another"), "a second one does not replace it");

    let (status, page) =
        visitor.status("/products/lamp/units", &[("csv", "device_id,p_code\nlamp-1,AB1\nlamp-1,AB2\n")]);
    assert_eq!(status, 422);
    assert!(page.contains("Line 3: ") && page.contains("lamp-1,AB1"), "{page}");
    let made = visitor.status("/products/lamp/units", &[("csv", "device_id,p_code\nlamp-1,AB1\nlamp-2,AB2\n")]);
    assert_eq!(made, (303, "/products/lamp?done=import".to_owned()));
    let devices = visitor.page("/devices?text=ab2&product=lamp");
    assert!(devices.contains("/devices/lamp-2\"") && !devices.contains("/devices/lamp-1\""), "{devices}");
    assert!(visitor.page("/devices?state=online").contains("Nothing fits"));

    let (status, page) = visitor.status("/products/lamp/claim-tokens", &[("uses", "0")]);
    assert!(status == 422 && page.contains("id=\"uses-wrong\""));
    let (status, page) = visitor.status("/products/lamp/claim-tokens", &[("uses", "2")]);
    assert!(status == 200 && page.contains(">ct_"), "{page}");
}

#[test]
fn what_cannot_be_done_is_a_page_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = Visitor::of(&server);
    admin.status("/products", &[("id", "lamp"), ("name", "Lamp")]);
    admin.status("/products/lamp/units", &[("csv", "device_id,p_code\nlamp-1,AB1\n")]);
    let missing = admin.get("/devices/none");
    assert_eq!(missing.status(), 404);
    assert_strict("/devices/none", &missing);
    assert!(text(missing).contains("<h1>Not found</h1>"));

    let viewer = Visitor { server: &server, token: server.token(&admin.token, "viewer") };
    assert!(viewer.page("/devices/lamp-1").contains("<h1>lamp-1</h1>"));
    let (status, page) = viewer.status("/devices/lamp-1/commands", &[("name", "set"), ("args", "")]);
    assert!(status == 403 && page.contains("Not permitted"), "{page}");
    assert_eq!(viewer.status("/products", &[("id", "other"), ("name", "Other")]).0, 403);
    assert_eq!(viewer.get("/audit").status(), 403);
    assert!(!viewer.page("/products").contains("<form"), "what is refused is not offered");
    assert!(!admin.page("/products").contains("/products/other\""));

    let (status, page) = admin.status("/devices/lamp-1/commands", &[("name", "set"), ("args", "{on}")]);
    assert!(status == 422 && page.contains("id=\"args-wrong\"") && page.contains("{on}"), "{page}");
    let (status, page) = admin.status("/devices/lamp-1/commands", &[("name", "set"), ("args", "{}")]);
    assert!(status == 409 && page.contains("not connected"), "{page}");
    let (status, to) = admin.status("/devices/lamp-1/commands", &[("name", "set"), ("args", "{}"), ("wait", "1")]);
    assert_eq!(status, 303);
    let page = admin.page(to.split('#').next().unwrap());
    assert!(page.contains(">queued<"), "{page}");
    assert_whole("/devices/lamp-1", &page);
}

#[test]
fn a_twin_is_desired_by_a_form_and_two_at_once_do_not_overwrite_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = Visitor::of(&server);
    admin.status("/products", &[("id", "lamp"), ("name", "Lamp")]);
    admin.status("/products/lamp/units", &[("csv", "device_id,p_code\nlamp-1,AB1\n")]);
    let desire = |patch, version| admin.status("/devices/lamp-1/twin", &[("patch", patch), ("version", version)]);
    let (status, page) = desire("[1]", "0");
    assert!(status == 422 && page.contains("id=\"patch-wrong\"") && page.contains(">[1]<"), "{page}");
    let note = "{\"note\": \"<script>alert(1)</script>\"}";
    assert_eq!(desire(note, "0"), (303, "/devices/lamp-1?done=twin#twin".to_owned()));
    let page = admin.page("/devices/lamp-1");
    assert!(page.contains("1 to do") && page.contains(">differs<") && page.contains("version 1<"), "{page}");
    assert!(!page.contains("<script>alert"), "a value is text");
    let (status, page) = desire("{\"note\": null}", "0");
    assert!(status == 409 && page.contains("changed meanwhile"), "{page}");
    assert_eq!(desire("{\"note\": null}", "1").0, 303);
    assert!(admin.page("/devices/lamp-1").contains("Nothing is desired of it"));
    let viewer = Visitor { server: &server, token: server.token(&admin.token, "viewer") };
    assert_eq!(viewer.status("/devices/lamp-1/twin", &[("patch", "{}")]).0, 403);
}

#[test]
fn a_rollout_that_cannot_be_planned_says_why_at_its_fields() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let admin = Visitor::of(&server);
    assert!(admin.page("/rollouts").contains("No rollouts yet"));
    let form =
        [("release", ""), ("first", "200"), ("devices", "a b/c"), ("min", "x"), ("failures", "5"), ("soak", "0")];
    let (status, page) = admin.status("/rollouts", &form);
    assert_eq!(status, 422);
    for field in ["release", "first", "devices", "min"] {
        assert!(page.contains(&format!("id=\"{field}-wrong\"")), "{field}: {page}");
    }
    let form = [("release", "none"), ("first", "10"), ("min", "1"), ("failures", "5"), ("soak", "0")];
    assert!(admin.status("/rollouts", &form).1.contains("choose another"));
    assert_eq!(admin.status("/rollouts/none", &[("order", "start")]).0, 404);
    let viewer = Visitor { server: &server, token: server.token(&admin.token, "viewer") };
    assert_eq!(viewer.status("/rollouts", &form).0, 403);
    assert!(!viewer.page("/rollouts").contains("<form"));
}
