// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C header, generated from src/capi behind the feature `header`; the soname of the library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let major = std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap_or_default();
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libsquall.so.{major}");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    #[cfg(feature = "header")]
    header::generate();
}

#[cfg(feature = "header")]
mod header {
    use cbindgen::{
        Builder, Config, DocumentationStyle, EnumConfig, ExportConfig, Language, Style,
    };
    use std::path::PathBuf;

    const BEGINNING: &str = "\
/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * squall.h - totally ordered, stable multicast between the processes of a group.
 *
 * Generated from src/capi; do not edit (`cargo build --features header` writes it).
 *
 * THREADS    A group is polled by one thread at a time: the caller's, in squall_poll, or one of its
 *            own. Each lane of a sender belongs to one thread at a time. Everything else: any.
 * CALLBACKS  run on the thread that polls. They may send, in any lane of theirs. They may not poll,
 *            wait, arm or close: SQUALL_REENTRANT. No exception or longjmp may leave them.
 * MEMORY     What a callback gets is valid until it returns. Outputs are written on success only.
 * STATUSES   0 or negative; where a count is the answer, it is >= 0. squall_last_error has the cause,
 *            the value and the remedy, per thread.
 * STRUCTS    begin with their size, which their _init sets; zero is the default of every field.
 * SETTINGS   are those of the struct; squall_group_attr_read fills it from a file and the environment.
 * FORK       A forked child has none of its parent's groups: their handles answer SQUALL_CLOSED
 *            there, and the others notice the parent's end, not the child's. It may open its own.
 *            One that was forked in a delivery callback may return from it: squall_poll answers
 *            SQUALL_CLOSED; what the callback was given is the parent's and may change. One that
 *            was forked in another callback, or in a signal handler that interrupted this library,
 *            and one made by _Fork or by clone past the C library, may only exec or _exit.
 */";

    const AFTER: &str = "
/* Another lane of this member than the first: a subgroup argument of the sending functions. */
#define SQUALL_LANE(subgroup, lane) ((uint32_t)(subgroup) | (uint32_t)(lane) << 16)
";

    pub fn generate() {
        println!("cargo:rerun-if-changed=src/capi");
        // Where to, if not into the tree: for the test that compares the two.
        println!("cargo:rerun-if-env-changed=SQUALL_HEADER_OUT");
        let out = std::env::var_os("SQUALL_HEADER_OUT").map(PathBuf::from);
        if let Some(out) = &out {
            println!("cargo:rerun-if-changed={}", out.display());
        }
        let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
        let part =
            |name: &str| std::env::var(format!("CARGO_PKG_VERSION_{name}")).expect("cargo sets it");
        let (major, minor, patch) = (part("MAJOR"), part("MINOR"), part("PATCH"));
        let versions = format!(
            "
/* Version of this header; squall_version() is that of the library. */
#define SQUALL_VERSION_MAJOR {major}
#define SQUALL_VERSION_MINOR {minor}
#define SQUALL_VERSION_PATCH {patch}
#define SQUALL_VERSION \\
  ((SQUALL_VERSION_MAJOR << 16) | (SQUALL_VERSION_MINOR << 8) | SQUALL_VERSION_PATCH)
"
        );
        let export = ExportConfig { include: vec!["squall_status".into()], ..Default::default() };
        let config = Config {
            export,
            language: Language::C,
            header: Some(BEGINNING.into()),
            include_guard: Some("SQUALL_H".into()),
            no_includes: true,
            sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
            after_includes: Some(versions + AFTER),
            cpp_compat: true,
            documentation_style: DocumentationStyle::Doxy,
            style: Style::Both,
            usize_is_size_t: true,
            line_length: 100,
            tab_width: 2,
            enumeration: EnumConfig { prefix_with_name: false, ..Default::default() },
            ..Default::default()
        };
        let built = [
            "status", "subgroup", "attr", "network", "read", "message", "view", "place", "state",
            "handle", "stats", "group", "send", "memory", "access",
        ]
        .iter()
        .fold(Builder::new().with_config(config), |builder, noun| {
            builder.with_src(root.join(format!("src/capi/{noun}.rs")))
        })
        .generate();
        match built {
            Ok(bindings) => {
                bindings.write_to_file(out.unwrap_or_else(|| root.join("include/squall.h")));
            }
            Err(error) => panic!("the header cannot be generated: {error}"),
        }
    }
}
