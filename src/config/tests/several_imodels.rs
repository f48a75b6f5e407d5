use super::*;

#[test]
fn a_watch_with_several_imodels_becomes_a_watch_for_each() {
    const IDS: [&str; 3] = [
        "c0ffee00-1234-4abc-8def-0123456789ab",
        "0b0b0b0b-1111-4222-8333-444444444444",
        "0b0b0b0b-9999-4222-8333-444444444444",
    ];
    let with = |ids: &str, more: &str| {
        let text = LEAST.replace(&format!("{:?}", IDS[0]), ids);
        parse(&format!("{text}{more}"))
    };
    let config = with(
        &format!("{IDS:?}"),
        &format!(
            "formerly = \"site\"\n[[imodel]]\nid = {:?}\nspatial_root = {{ watch = \"north\", path = \"a.dgn\" }}\n\
             [[hook]]\nname = \"all\"\nwatches = [\"north\"]\nurl = \"https://example.com\"\n",
            IDS[1]
        ),
    )
    .unwrap();
    let watches = config.watches.iter();
    let found: Vec<(&str, &str, Option<&str>, Option<&str>)> = watches
        .map(|watch| {
            let leader = watch.follows.as_ref().map(|leader| leader.watch.as_str());
            let formerly = watch.formerly.as_deref();
            (
                watch.name.as_str(),
                watch.imodel_id.as_str(),
                leader,
                formerly,
            )
        })
        .collect();
    let (second, third) = ("north@0b0b0b0b-1", "north@0b0b0b0b-9");
    assert_eq!(
        found,
        [
            ("north", IDS[0], None, Some("site")),
            (second, IDS[1], Some("north"), Some("site@0b0b0b0b-1")),
            (third, IDS[2], Some("north"), Some("site@0b0b0b0b-9")),
        ]
    );
    let root = config.imodels[0].spatial_root.as_ref().unwrap();
    assert_eq!(root.watch, second);
    let hooked = config.hooks[0].watches.as_ref().unwrap();
    assert_eq!(hooked, &["north", second, third]);

    for (ids, expected) in [
        ("[]", "expected 1 to 16 ids, but the list has 0"),
        (&format!("[{:?}, {0:?}]", IDS[0]), "is listed twice"),
        ("[\"x\"]", "invalid UUID"),
        ("7", "expected a string"),
    ] {
        let errors = with(ids, "").unwrap_err().to_string();
        assert!(errors.contains(expected), "{ids}: {errors}");
    }
}
