//! Errors of TOML syntax as they are printed.

use crate::config::{Config, Environment};

/// What is printed for a watch with these lines.
fn printed(lines: &str) -> String {
    let text =
        format!("[itwin]\nclient_id = \"service-x\"\n\n[[watch]]\nname = \"north\"\n{lines}\n");
    match Config::parse(&text, "config.toml", &Environment::default()) {
        Ok(_) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn errors_of_syntax_show_the_line_and_what_to_write_instead() {
    let lines = [
        "path = /srv/north",
        "path = north   # our share",
        "path = \"C:\\Users\\new\"",
        "connection = \"D:\\data\\x\"",
        "path = \"/a\"\npath = \"/b\"",
        "path = \"/a\"\n\n[itwin]\nscope = \"x\"",
        "path = \"/a\nsettle = \"5s\"",
        "path = '/a",
        "path = /a\"\nsettle = \"5s\"",
        "exclude = [\"*.bak\", \"*.tmp\"\nsettle = \"5s\"",
        "exclude = [\n  \"*.bak\",\n  \"*.tmp\"\n\n[log]\nlevel = \"info\"",
        "exclude = [\"*.bak\", \"*.tmp\"",
        "exclude = [\"*.bak\" \"*.tmp\"]",
        "exclude = [*.bak, *.tmp]",
        "[log\nlevel = \"info\"",
        "[[watch]\nname = \"x\"",
        "path: \"/a\"",
        "path \"/a\"",
        "path =",
        "settle = 5s",
        "remap = True",
        "path = “/srv/north”",
        "path = ~/north",
        "path = \"/a\" settle = \"5s\"",
        "path = \"/a\";",
        "// our share",
        "; our share",
        "my path = \"/a\"",
        "path\t=\t/srv/north",
        "name = \"a\u{1}b\"",
        "connectors = { dgn = \"CIVIL\"\npath = \"/a\"",
        "{\"path\": \"/a\"}",
        "exclude = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\", \"i\", \"j\", \"k\", \"l\", \"m\", \"n\", \"o\" \"p\"]",
    ];
    let all: Vec<String> = lines
        .iter()
        .map(|lines| format!("{lines}\n----\n{}\n", printed(lines)))
        .collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn no_excerpt_shows_a_secret() {
    for lines in [
        "client_secret = hunter2abc",
        "client_secret_file = hunter2abc",
        "path = /a client_secret = \"hunter2abc\"",
        "path = /a # hunter2abc",
        "token_file = hunter2abc",
        "url = https://hooks.example/hunter2abc",
        "proxy = http://ann:hunter2abc@proxy",
        "hunter2abc",
        "hunter2abc = \nx = y",
        "// client_secret = hunter2abc",
        "password: hunter2abc",
        "name = \"a\nhunter2abc\"",
        "path = \"https://x:hunter2abc@y",
        "[hunter2abc.secret",
    ] {
        let printed = printed(lines);
        let is_key = lines.starts_with("hunter2abc =");
        assert!(!printed.is_empty(), "{lines}");
        assert!(is_key || !printed.contains("hunter2"), "{lines}: {printed}");
    }
}
