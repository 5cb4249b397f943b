//! The console in a real browser.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use iot_tests::{browser::Browser, cloud::Cloud};

#[test]
fn who_is_not_signed_in_sees_the_way_in_at_every_width() {
    let cloud = Cloud::start(&[]);
    let browser = Browser::open(cloud.address("http"), 1440);
    for (width, path) in [(1440, "/"), (900, "/devices"), (390, "/audit?cursor=x"), (390, "/setup")] {
        browser.resize(width, 900);
        browser.go(path);
        let expected = if path == "/setup" { "/setup" } else { "/sign-in" };
        assert_eq!(browser.path(), expected, "{path}");
        browser.is_sound();
    }
}
