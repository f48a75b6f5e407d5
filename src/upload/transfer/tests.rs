use super::*;

const MIB: u64 = 1024 * 1024;

fn limits(memory: u64) -> config::Upload {
    config::Upload {
        workers: 8,
        block_size: 8 * MIB,
        memory,
        rate: Vec::new(),
    }
}

#[test]
fn blocks_double_until_they_are_few_enough() {
    for (bytes, expected) in [
        (65 * MIB, 8 * MIB),
        (50_000 * 8 * MIB, 8 * MIB),
        (50_000 * 8 * MIB + 1, 16 * MIB),
        (50_000 * 64 * MIB + 1, 100 * MIB),
        (50_000 * 100 * MIB, 100 * MIB),
    ] {
        assert_eq!(block_size(&limits(32 * MIB), bytes), expected, "{bytes}");
    }
}

#[test]
fn the_blocks_in_flight_fit_into_memory() {
    for (memory, expected) in [(64 * MIB, 8 * MIB), (16 * MIB, 4 * MIB), (8 * MIB, 2 * MIB)] {
        assert_eq!(block_size(&limits(memory), 65 * MIB), expected, "{memory}");
    }
}

#[test]
fn another_address_is_asked_for_when_the_rest_would_not_arrive_and_at_the_best_time() {
    const HOUR: u64 = 3600;
    for (elapsed, sent, left, renewable, expected) in [
        // It arrives in time.
        (600, 50, 50, None, false),
        (3300, 99, 1, Some(true), false),
        // It would not: what the next address leads to is found out after a tenth of the life.
        (300, 1, 99, None, false),
        (360, 1, 99, None, true),
        // A known one is renewed five minutes before the end.
        (3200, 10, 90, Some(true), false),
        (3300, 10, 90, Some(true), true),
        // One that leads elsewhere never: all would be lost.
        (3500, 10, 90, Some(false), false),
        // Nothing has arrived yet.
        (3400, 0, 90, Some(true), true),
    ] {
        let course = Course {
            life: Duration::from_secs(HOUR),
            elapsed: Duration::from_secs(elapsed),
            sent,
            left,
            renewable,
        };
        assert_eq!(needs_another(course), expected, "{course:?}");
    }
}

#[test]
fn a_file_fits_into_the_life_of_an_address_or_not() {
    let hour = Some(Duration::from_secs(3600));
    assert!(fits(6 * 1024 * MIB, Some(2 * MIB), hour));
    assert!(!fits(7 * 1024 * MIB, Some(2 * MIB), hour));
    assert!(fits(u64::MAX, None, hour));
    assert!(fits(u64::MAX, Some(1), None));
    assert!(!fits(1, Some(1), Some(Duration::ZERO)));
}

#[test]
fn block_ids_are_of_one_width_and_differ_by_upload_content_and_place() {
    let (one, two) = (new_generation(), new_generation());
    let ids = [
        block_id(one, 7, 0),
        block_id(two, 7, 0),
        block_id(one, 8, 0),
        block_id(one, 7, 1),
        block_id(one, 7, 49_999),
    ];
    assert!(ids.iter().all(|id| id.len() == 32));
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
}
