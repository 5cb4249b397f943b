//! The console in a real browser.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use iot_tests::{
    browser::Browser,
    cloud::Cloud,
    person::Door,
    unit::simulate,
    wait::{SOON, until},
};

#[test]
fn who_is_not_signed_in_sees_the_way_in_at_every_width() {
    let cloud = Cloud::start(&[]);
    let browser = Browser::open(cloud.address("http"), 1440);
    for (width, path) in [(1440, "/"), (900, "/devices"), (390, "/audit?cursor=x"), (390, "/setup")] {
        browser.resize(width, 900);
        browser.go(path);
        assert_eq!(browser.path(), "/sign-in", "{path}");
        assert!(!browser.text().contains("First start?"), "the printed password was used");
        browser.is_sound();
    }
}

const PASSWORD: &str = "correct horse battery";

/// From an empty folder to a lamp in somebody's home that obeys: all of it in the browser, but for the lamp itself.
#[test]
fn a_new_user_comes_from_nothing_to_a_bound_device_that_answers() {
    let (cloud, password) = Cloud::untouched(&[]);
    let browser = Browser::open(cloud.address("http"), 390);
    browser.go("/sign-in");
    browser.reads("First start?");
    browser.go("/setup");
    browser.is_sound();
    browser.resize(1440, 900);
    browser.fill("One-time password", "not this one");
    browser.fill("Your name", "Ann");
    browser.fill("Your e-mail", "ann@example.org");
    browser.fill("New password", PASSWORD);
    browser.press("Create the account");
    until("a word at the field", SOON, || browser.texts(".wrong").into_iter().next());
    browser.fill("One-time password", &password);
    browser.fill("New password", "Password1");
    browser.press("Create the account");
    browser.reads("guessed first");
    browser.fill("One-time password", &password);
    browser.fill("New password", PASSWORD);
    browser.press("Create the account");
    browser.reads("Overview");
    browser.is_sound();

    browser.go("/products");
    browser.is_sound();
    browser.fill("Id", "lamp");
    browser.fill("Name", "Lamp");
    browser.press("Create");
    until("the product's page", SOON, || (browser.path() == "/products/lamp").then_some(()));
    browser.fill("CSV", "device_id,p_code\nlamp-1\n");
    browser.press("Import");
    browser.reads("Line 2");
    browser.fill("CSV", "device_id,p_code\nlamp-1,LAMP-0001\n");
    browser.press("Import");
    browser.reads("The units are imported");
    browser.is_sound();
    browser.press("Issue");
    browser.reads("Claim token for 1 unit");
    let token = browser.texts("code.block").into_iter().find(|text| text.starts_with("ct_")).unwrap();
    let lamp = simulate(&cloud, "lamp-1", &token, &["--local", "127.0.0.1:0", "--interval-ms", "500"]);
    let door = Door::of(&lamp);

    browser.go("/homes");
    browser.is_sound();
    browser.fill("Name", "Hill House");
    browser.press("Make");
    browser.reads("Hill House");
    browser.is_sound();
    browser.fill("Add a device: the code that it shows", "0000-0000-0000-0000-0000-0000-00");
    browser.press("Add");
    until("a word at the code", SOON, || browser.texts(".wrong").into_iter().next());
    let (_, code) = door.press();
    browser.fill("Add a device: the code that it shows", &code.to_ascii_lowercase());
    browser.press("Add");
    browser.reads("lamp-1");
    until("the lamp to have an owner", SOON, || (door.look()["bound"] == true).then_some(()));

    browser.go("/devices/lamp-1");
    until("the lamp to be shown as connected", SOON, || {
        browser.go("/devices/lamp-1");
        browser.text().contains("temperature").then_some(())
    });
    browser.is_sound();
    browser.fill("Command", "set");
    browser.fill("Arguments, as JSON", r#"{"on": true}"#);
    browser.press("Send");
    browser.reads("applied");
    assert_eq!(door.look()["on"], true);
    browser.is_sound();

    for width in [900, 390] {
        browser.resize(width, 900);
        for path in [
            "/",
            "/devices",
            "/devices/lamp-1",
            "/products",
            "/products/lamp",
            "/homes",
            "/rollouts",
            "/audit",
            "/account",
        ] {
            browser.go(path);
            browser.is_sound();
        }
    }

    browser.go("/account");
    browser.press("Sign out");
    until("the way in", SOON, || (browser.path() == "/sign-in").then_some(()));
    browser.go("/devices/lamp-1");
    assert_eq!(browser.path(), "/sign-in");
    browser.fill("E-mail", "ann@example.org");
    browser.fill("Password", PASSWORD);
    browser.press("Sign in");
    until("the page that was asked for", SOON, || (browser.path() == "/devices/lamp-1").then_some(()));
}

/// In the dark, and with a name that means to be a script.
#[test]
fn what_people_write_is_text_and_the_dark_is_readable() {
    let (cloud, password) = Cloud::untouched(&[]);
    let browser = Browser::dark(cloud.address("http"), 390);
    browser.go("/setup");
    browser.fill("One-time password", &password);
    browser.fill("Your name", "<script>document.title='no'</script>");
    browser.fill("Your e-mail", "ann@example.org");
    browser.fill("New password", PASSWORD);
    browser.press("Create the account");
    browser.reads("Overview");
    browser.go("/homes");
    browser.fill("Name", "<img src=x onerror=\"document.title='no'\">");
    browser.press("Make");
    browser.reads("<img src=x");
    browser.is_sound();
    browser.go("/account");
    browser.is_sound();
    assert!(
        browser
            .script("return document.title !== 'no' && matchMedia('(prefers-color-scheme: dark)').matches")
            .as_bool()
            .unwrap()
    );
    browser.go("/devices/nobody");
    until("a page that says so", SOON, || browser.texts("h1").into_iter().next());
}
