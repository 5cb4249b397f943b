use std::time::Duration;

use iot_core::{
    id::{ProductId, TenantId},
    time::Timestamp,
};
use serde_json::Value;

use super::*;

const CHUNK: u32 = CHUNK_BYTES_MIN;
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn trust(threshold: u8, seeds: &[u8]) -> Trust {
    Trust::new(threshold, seeds.iter().map(|seed| key(*seed).public()).collect()).unwrap()
}

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        tenant: TenantId::parse("acme").unwrap(),
        product: ProductId::parse("lamp").unwrap(),
        version: Version::parse("2.0.0").unwrap(),
        sequence: 2,
        security_version: 1,
        hardware: vec![Hardware::parse("r1").unwrap(), Hardware::parse("r2").unwrap()],
        image: Image::of(&[7; 2500], CHUNK).unwrap(),
        notes: "Brighter.\nSafer.".into(),
        created: NOW,
        expires: NOW.plus(Duration::from_secs(3600)),
    }
}

fn signed(seeds: &[u8]) -> SignedRelease {
    let keys: Vec<_> = seeds.iter().map(|seed| key(*seed)).collect();
    SignedRelease::sign(&manifest(), &keys.iter().collect::<Vec<_>>()).unwrap()
}

/// The same release with a manifest that was changed and signed by the right key.
fn resigned(change: impl FnOnce(&mut Value)) -> SignedRelease {
    let mut value: Value = serde_json::from_str(&signed(&[1]).manifest).unwrap();
    change(&mut value);
    let mut other = SignedRelease { manifest: value.to_string(), signatures: Vec::new() };
    other.add_signature(&key(1));
    other
}

fn code(trust: &Trust, signed: &SignedRelease) -> &'static str {
    verify(trust, signed).map_or_else(|refused| refused.code(), |_| "accepted")
}

#[test]
fn a_signed_release_survives_its_file() {
    let file = serde_json::to_vec(&signed(&[1, 2])).unwrap();
    assert_eq!(verify(&trust(2, &[1, 2, 3]), &SignedRelease::parse(&file).unwrap()), Ok(manifest()));
}

/// RFC 8032 §7.1, test 1: the seed, its public key. A key id is the SHA-256 of those 32 bytes.
#[test]
fn keys_are_those_of_the_standard() {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let public = "\"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"";
    let seed: [u8; 32] = data_encoding::HEXLOWER.decode(seed.as_bytes()).unwrap().try_into().unwrap();
    let key = SigningKey::from_seed(&seed).unwrap();
    assert_eq!(serde_json::to_string(&key.public()).unwrap(), public);
    assert_eq!(key.public().id().to_string(), "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9");
}

/// As a stranger's tool would: the domain, a zero byte, the manifest.
#[test]
fn what_is_signed_is_as_documented() {
    let signed = signed(&[1]);
    let message = [b"iot-ota/1 release\0".as_slice(), signed.manifest.as_bytes()].concat();
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let signature = data_encoding::HEXLOWER.encode(pair.sign(&message).as_ref());
    assert_eq!(serde_json::to_value(&signed).unwrap()["signatures"][0]["signature"], signature);
}

#[test]
fn a_trust_is_checked_where_it_is_read() {
    let text = serde_json::to_string(&trust(2, &[1, 2])).unwrap();
    assert_eq!(serde_json::from_str::<Trust>(&text).unwrap(), trust(2, &[1, 2]));
    assert!(serde_json::from_str::<Trust>(&text.replace("\"threshold\":2", "\"threshold\":3")).is_err());
    assert!(serde_json::from_str::<Trust>(&text.replace("\"threshold\":2", "\"threshold\":0")).is_err());
    let keys = |count: u8| (1..=count).map(|seed| key(seed).public()).collect();
    assert!(Trust::new(1, keys(8)).is_ok());
    assert_eq!(Trust::new(1, keys(9)), Err(TrustError::Keys));
    assert_eq!(Trust::new(1, Vec::new()), Err(TrustError::Keys));
}

#[test]
fn ot_1_unsigned_or_signed_by_another_key() {
    let trust = trust(1, &[1]);
    assert_eq!(code(&trust, &signed(&[1])), "accepted");
    assert_eq!(code(&trust, &signed(&[])), "signatures_insufficient");
    assert_eq!(code(&trust, &signed(&[9])), "signatures_insufficient");
}

#[test]
fn ot_1_a_signature_over_other_bytes() {
    let trust = trust(1, &[1]);
    let mut changed = signed(&[1]);
    assert_eq!(code(&trust, &changed), "accepted");
    changed.manifest.push(' ');
    assert_eq!(code(&trust, &changed), "signatures_insufficient");
    // The same key signed these bytes, and not as a release.
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let mut elsewhere = serde_json::to_value(signed(&[1])).unwrap();
    let bare = pair.sign(signed(&[1]).manifest.as_bytes());
    elsewhere["signatures"][0]["signature"] = data_encoding::HEXLOWER.encode(bare.as_ref()).into();
    assert_eq!(code(&trust, &serde_json::from_value(elsewhere).unwrap()), "signatures_insufficient");
}

#[test]
fn ot_1_a_signature_under_the_name_of_another_key() {
    let trust = trust(1, &[1]);
    let mut named = signed(&[9]);
    named.signatures[0].key_id = key(1).public().id();
    assert_eq!(code(&trust, &named), "signatures_insufficient");
    // Nor does the right key under another name.
    let mut unnamed = signed(&[1]);
    unnamed.signatures[0].key_id = key(9).public().id();
    assert_eq!(code(&trust, &unnamed), "signatures_insufficient");
    // It does not spoil a valid one beside it.
    named.signatures.push(signed(&[1]).signatures[0]);
    assert_eq!(code(&trust, &named), "accepted");
}

#[test]
fn ot_9_one_stolen_key_of_two() {
    let trust = trust(2, &[1, 2, 3]);
    assert_eq!(code(&trust, &signed(&[1, 3])), "accepted");
    assert_eq!(verify(&trust, &signed(&[1])), Err(Refused::Signatures { valid: 1, needed: 2 }));
    assert_eq!(verify(&trust, &signed(&[1, 8, 9])), Err(Refused::Signatures { valid: 1, needed: 2 }));
}

#[test]
fn ot_9_the_same_key_counts_once() {
    let trust = trust(2, &[1, 2]);
    assert_eq!(code(&trust, &signed(&[1, 2])), "accepted");
    let mut twice = signed(&[1]);
    twice.signatures.push(twice.signatures[0]);
    assert_eq!(verify(&trust, &twice), Err(Refused::Signatures { valid: 1, needed: 2 }));
    twice.signatures[1].key_id = key(2).public().id();
    assert_eq!(verify(&trust, &twice), Err(Refused::Signatures { valid: 1, needed: 2 }));
}

#[test]
fn ot_6_oversized_metadata_is_not_read() {
    let trust = trust(1, &[1]);
    let padded = |length: usize| {
        let mut text = signed(&[1]).manifest;
        text.push_str(&" ".repeat(length - text.len()));
        let mut padded = SignedRelease { manifest: text, signatures: Vec::new() };
        padded.add_signature(&key(1));
        padded
    };
    assert_eq!(code(&trust, &padded(MANIFEST_BYTES_MAX)), "accepted");
    assert_eq!(code(&trust, &padded(MANIFEST_BYTES_MAX + 1)), "release_too_long");
    let file = vec![b'['; SIGNED_BYTES_MAX + 1];
    assert_eq!(SignedRelease::parse(&file).unwrap_err().code(), "release_too_long");
    assert_eq!(SignedRelease::parse(&file[1..]).unwrap_err().code(), "release_malformed");
    let mut many = signed(&[1]);
    many.signatures = vec![many.signatures[0]; SIGNATURES_MAX];
    assert_eq!(code(&trust, &many), "accepted");
    many.signatures.push(many.signatures[0]);
    assert_eq!(code(&trust, &many), "release_malformed");
}

#[test]
fn ot_6_the_largest_release_fits_its_bounds_and_one_packet() {
    let mut largest = manifest();
    largest.image.size_bytes = IMAGE_BYTES_MAX;
    largest.image.chunk_bytes = u32::try_from(IMAGE_BYTES_MAX / u64::from(CHUNKS_MAX)).unwrap();
    largest.image.chunks = vec![Digest::of(b""); CHUNKS_MAX as usize];
    largest.notes = "\"".repeat(NOTES_BYTES_MAX);
    let revision = |n: usize| Hardware::parse(&format!("{n:0>64}")).unwrap();
    largest.hardware = (0..HARDWARE_MAX).map(revision).collect();
    let keys: Vec<_> = (1..=16).map(key).collect();
    let signed = SignedRelease::sign(&largest, &keys.iter().collect::<Vec<_>>()).unwrap();
    assert!(serde_json::to_vec(&signed).unwrap().len() <= SIGNED_BYTES_MAX);
    assert!(verify(&trust(8, &[1, 2, 3, 4, 5, 6, 7, 8]), &signed).is_ok());
    const { assert!(crate::wire::DOWN_BYTES_MAX < 256 * 1024) };
    let mut more_chunks = largest.clone();
    more_chunks.image.chunk_bytes = CHUNK;
    more_chunks.image.size_bytes = u64::from(CHUNK * CHUNKS_MAX);
    assert!(SignedRelease::sign(&more_chunks, &[]).is_ok());
    more_chunks.image.size_bytes += 1;
    more_chunks.image.chunks.push(Digest::of(b""));
    (more_chunks.notes, more_chunks.hardware) = (String::new(), manifest().hardware);
    assert_eq!(SignedRelease::sign(&more_chunks, &[]).unwrap_err().code(), "manifest_invalid");
    largest.image.size_bytes += 1;
    assert_eq!(SignedRelease::sign(&largest, &[]).unwrap_err().code(), "image_too_large");
}

#[test]
fn ot_6_a_manifest_that_contradicts_itself() {
    let trust = trust(1, &[1]);
    assert_eq!(code(&trust, &resigned(|_| ())), "accepted");
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 16] = [
        ("release_malformed", |m| m["more"] = 1.into()),
        ("release_malformed", |m| m["image"]["more"] = 1.into()),
        ("release_malformed", |m| m["image"]["sha256"] = "AB".into()),
        ("release_malformed", |m| m["version"] = "two words".into()),
        ("release_malformed", |m| m["sequence"] = (-1).into()),
        ("release_format", |m| m["format"] = 2.into()),
        ("manifest_invalid", |m| m["sequence"] = 0.into()),
        ("manifest_invalid", |m| m["sequence"] = (1_u64 << 63).into()),
        ("manifest_invalid", |m| m["hardware"] = Vec::<Value>::new().into()),
        ("manifest_invalid", |m| m["notes"] = "x".repeat(NOTES_BYTES_MAX + 1).into()),
        ("manifest_invalid", |m| m["notes"] = "\u{1b}[2J".into()),
        ("manifest_invalid", |m| m["expires"] = m["created"].clone()),
        ("manifest_invalid", |m| m["image"]["chunk_bytes"] = 1.into()),
        ("manifest_invalid", |m| m["image"]["size_bytes"] = 0.into()),
        ("manifest_invalid", |m| m["image"]["size_bytes"] = 9_999.into()),
        ("image_too_large", |m| m["image"]["size_bytes"] = u64::MAX.into()),
    ];
    for (expected, change) in changes {
        let changed = resigned(change);
        assert_eq!(code(&trust, &changed), expected, "{}", changed.manifest);
    }
}

#[test]
fn a_release_fits_its_target_only() {
    let manifest = manifest();
    let (tenant, product) = (TenantId::parse("acme").unwrap(), ProductId::parse("lamp").unwrap());
    let (other_tenant, other_product) = (TenantId::parse("evil").unwrap(), ProductId::parse("lock").unwrap());
    let (hardware, other_hardware) = (Hardware::parse("r2").unwrap(), Hardware::parse("r3").unwrap());
    let fitting = Target {
        tenant: &tenant,
        product: &product,
        hardware: &hardware,
        sequence: 1,
        security_version: 1,
        slot_bytes: 2500,
        now: NOW,
    };
    let code = |target: Target<'_>| manifest.fits(&target).map_or_else(|refused| refused.code(), |()| "fits");
    assert_eq!(code(fitting), "fits");
    assert_eq!(code(Target { tenant: &other_tenant, ..fitting }), "wrong_product");
    assert_eq!(code(Target { product: &other_product, ..fitting }), "wrong_product");
    assert_eq!(code(Target { hardware: &other_hardware, ..fitting }), "wrong_hardware");
    assert_eq!(code(Target { sequence: 2, ..fitting }), "not_newer");
    assert_eq!(code(Target { sequence: 3, ..fitting }), "rollback");
    assert_eq!(code(Target { security_version: 2, ..fitting }), "rollback");
    assert_eq!(code(Target { now: manifest.expires, ..fitting }), "expired");
    assert_eq!(code(Target { slot_bytes: 2499, ..fitting }), "image_too_large");
}

#[test]
fn an_image_is_described_however_it_comes() {
    let bytes: Vec<u8> = (0..5000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let image = Image::of(&bytes, CHUNK).unwrap();
    assert_eq!((image.size_bytes, image.count(), image.sha256), (5000, 5, Digest::of(&bytes)));
    assert_eq!(image.range(4), Some(4096..5000));
    assert_eq!(image.range(5), None);
    assert_eq!(image.chunks[4], Digest::of(&bytes[4096..]));
    for step in [1, 1000, 1024, 3000] {
        let mut measure = Measure::new(CHUNK).unwrap();
        bytes.chunks(step).for_each(|piece| measure.update(piece).unwrap());
        assert_eq!(measure.finish().unwrap(), image, "{step}");
    }
    assert_eq!(measure(bytes.as_slice(), CHUNK).unwrap(), image);
    assert_eq!(Image::of(&bytes[..2048], CHUNK).unwrap().count(), 2);
    assert_eq!(Image::of(&[], CHUNK), Err(NotAnImage::Empty));
    assert_eq!(Image::of(&bytes, CHUNK - 1), Err(NotAnImage::ChunkSize));
    let one_too_many = vec![0; (CHUNK * CHUNKS_MAX + 1) as usize];
    assert_eq!(Image::of(&one_too_many, CHUNK), Err(NotAnImage::TooManyChunks));
    assert_eq!(Image::of(&one_too_many[1..], CHUNK).unwrap().count(), CHUNKS_MAX);
}
