// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C door as its users have it: installed with ci/dist, found with pkg-config and CMake,
//! compiled by what compilers there are, run plain, under valgrind and with the address sanitizer.
//!
//! What a machine does not have is left out aloud: `SKIPPED` and why. `UPDATE=1` rewrites
//! ci/abi.txt, the list of everything that compiled programs rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

#[path = "capi/hosts.rs"]
mod hosts;
#[allow(dead_code, reason = "links are cut in `hosts`, the test program")]
#[path = "hosts/net.rs"]
mod net;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
/// No program here takes that long, in seconds, on however busy a machine: it only ends a hang.
const PATIENCE: &str = "900";
/// The newest C library that the shared library may ask for.
const GLIBC_FLOOR: (u32, u32) = (2, 28);

// ---- doing things -------------------------------------------------------------------------------

fn work() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi")
}

/// A new, empty directory of a test.
fn fresh(name: &str) -> PathBuf {
    let at = work().join(name);
    let _ = fs::remove_dir_all(&at);
    fs::create_dir_all(&at).unwrap();
    at
}

fn root(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// A command that ends, in one way or the other.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE]).arg(program);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command, which must succeed; its standard output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// Says aloud, past the capture of the test harness, what this machine cannot check.
fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {why}");
}

fn compilers(candidates: [&'static str; 2]) -> Vec<&'static str> {
    let (found, missing): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|cc| have(cc));
    for compiler in missing {
        skipped(compiler, "not installed");
    }
    assert!(!found.is_empty(), "none of {candidates:?} is here");
    found
}

/// The installation that all tests use, made once.
fn prefix() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let prefix = fresh("prefix");
        run(Command::new(root("ci/dist")).arg(&prefix).env_remove("DESTDIR").env_remove("LIBDIR"));
        prefix
    })
}

/// What pkg-config says to a compiler: flags, and libraries with the path to find them at run time.
fn flags(prefix: &Path, package: &str) -> Vec<String> {
    let lib = prefix.join("lib");
    let mut pkg_config = command("pkg-config");
    pkg_config.env("PKG_CONFIG_PATH", lib.join("pkgconfig")).args(["--cflags", "--libs", package]);
    let said = run(&mut pkg_config);
    let mut flags: Vec<String> = said.split_whitespace().map(String::from).collect();
    flags.extend([format!("-Wl,-rpath,{}", lib.display()), "-pthread".into()]);
    flags
}

/// Compiles one file into a program; `options` may name the language.
#[track_caller]
fn compile(compiler: &str, options: &[&str], source: &Path, package: &str, program: &Path) {
    let mut compile = command(compiler);
    compile.args(options).arg(source).args(flags(prefix(), package)).arg("-o").arg(program);
    run(&mut compile);
}

fn examples() -> Vec<String> {
    let files = fs::read_dir(root("c_examples")).unwrap().map(|file| file.unwrap().file_name());
    let names = files.filter_map(|name| name.to_str()?.strip_suffix(".c").map(String::from));
    let examples: Vec<String> = names.collect();
    assert!(examples.len() >= 5, "{examples:?}");
    examples
}

/// Starts members of one group and expects all of them to end well; what each has said.
#[track_caller]
fn members(program: &Path, group: &str, count: usize) -> Vec<String> {
    let group = format!("{group}-{}", std::process::id());
    let member = |rank: usize| -> Child {
        let mut member = command(program);
        member.args([&group, &rank.to_string(), &count.to_string()]);
        member.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let started: Vec<Child> = (0..count).rev().map(member).collect();
    let ended = started.into_iter().map(|member| member.wait_with_output().unwrap());
    let outputs: Vec<Output> = ended.collect();
    for output in &outputs {
        assert!(output.status.success(), "{program:?}: {}\n{}", output.status, text(output));
    }
    outputs.iter().map(text).collect()
}

// ---- the installation ---------------------------------------------------------------------------

fn tree(at: &Path) -> BTreeSet<String> {
    let said = run(command("find").arg(".").args(["!", "-type", "d"]).current_dir(at));
    said.lines().map(String::from).collect()
}

#[test]
fn installs_what_it_promises() {
    let version = env!("CARGO_PKG_VERSION");
    let major = version.split('.').next().unwrap();
    let expected = [
        "include/squall.h".into(),
        "include/squall.hpp".into(),
        "lib/cmake/squall/squall-config-version.cmake".into(),
        "lib/cmake/squall/squall-config.cmake".into(),
        "lib/libsquall.a".into(),
        "lib/libsquall.so".into(),
        format!("lib/libsquall.so.{major}"),
        format!("lib/libsquall.so.{version}"),
        "lib/pkgconfig/squall-static.pc".into(),
        "lib/pkgconfig/squall.pc".into(),
    ];
    let expected: BTreeSet<String> = expected.map(|file: String| format!("./{file}")).into();
    assert_eq!(tree(prefix()), expected);

    // For a package: the same below DESTDIR, twice, and no text knows the stage.
    let stage = fresh("stage");
    for _ in 0..2 {
        run(Command::new(root("ci/dist")).arg("/opt/squall").env("DESTDIR", &stage));
        assert_eq!(tree(&stage.join("opt/squall")), expected);
    }
    // Nor does anything know this machine.
    for place in [&stage, Path::new(ROOT), &prefix().join("lib")] {
        let grep = command("grep").args(["-rlF", place.to_str().unwrap()]).arg(&stage).output();
        assert_eq!(text(&grep.unwrap()), "", "files that name {place:?}");
    }

    // It may be moved: everything is found relative to the file that says it.
    let moved = fresh("moved").join("elsewhere");
    fs::rename(stage.join("opt/squall"), &moved).unwrap();
    let program = moved.join("hello");
    let mut compile = command("cc");
    compile.arg(root("c_examples/hello.c")).args(flags(&moved, "squall")).arg("-o").arg(&program);
    run(&mut compile);
    members(&program, "moved", 1);
    let loads = run(command("ldd").arg(&program));
    assert!(loads.contains(moved.to_str().unwrap()), "{loads}");
}

#[test]
fn the_shared_library_runs_on_old_systems() {
    let library = prefix().join("lib/libsquall.so");
    let symbols = run(command("objdump").arg("-T").arg(&library));
    let mut seen = 0;
    for line in symbols.lines().filter(|line| line.contains("GLIBC_")) {
        let version = line.split("GLIBC_").nth(1).unwrap().split([')', ' ']).next().unwrap();
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap());
        let version = (parts.next().unwrap(), parts.next().unwrap());
        assert!(version <= GLIBC_FLOOR, "newer than {GLIBC_FLOOR:?}: {line}");
        seen += 1;
    }
    assert!(seen > 20, "{symbols}");
    let known = ["linux-vdso", "libgcc_s", "libc", "libm", "libpthread", "libdl", "ld-linux"];
    for line in run(command("ldd").arg(&library)).lines() {
        let name = line.trim().rsplit_once(".so").map_or("", |_| line.trim());
        let name = name.split(" => ").next().unwrap().rsplit('/').next().unwrap();
        let stem = name.split(".so").next().unwrap().trim_end_matches("-x86-64");
        assert!(known.contains(&stem.trim_end_matches("-aarch64")), "needs {line}");
    }
}

/// A plugin of some host: it is loaded, used in a thread that outlives it, and unloaded.
const UNLOADED: &str = "
#include <dlfcn.h>
#include <pthread.h>
#include <squall.h>
static void *library;
static void *body(void *path)
{
  library = dlopen((const char *)path, RTLD_NOW);
  if (!library) return NULL;
  int (*open)(const void *, const void *, void *);
  *(void **)&open = dlsym(library, \"squall_group_open\");
  if (open(NULL, NULL, NULL) != SQUALL_INVALID) return NULL;
  dlclose(library); /* and now the thread's storage is cleaned up, by functions in there */
  return path;
}
int main(int argc, char **argv)
{
  pthread_t thread;
  void *done = NULL;
  if (argc != 2 || pthread_create(&thread, NULL, body, argv[1])) return 2;
  pthread_join(thread, &done);
  return done == NULL;
}
";

#[test]
fn may_be_unloaded() {
    let at = fresh("unloaded");
    fs::write(at.join("unloaded.c"), UNLOADED).unwrap();
    let mut compile = command("cc");
    compile.args(["-std=c11", "unloaded.c", "-o", "unloaded", "-pthread", "-ldl", "-I"]);
    run(compile.arg(prefix().join("include")).current_dir(&at));
    run(command(at.join("unloaded")).arg(prefix().join("lib/libsquall.so")));
}

#[test]
fn is_found_by_cmake() {
    if !have("cmake") {
        return skipped("the CMake package", "cmake is not installed");
    }
    let at = fresh("cmake");
    let lists = "cmake_minimum_required(VERSION 3.13)\n\
        project(smoke C CXX)\n\
        find_package(squall 9.9 QUIET)\n\
        if(squall_FOUND)\nmessage(FATAL_ERROR \"9.9 is not what is here\")\nendif()\n\
        find_package(squall 0.1 REQUIRED)\n\
        find_package(squall REQUIRED)\n\
        add_executable(shared zero_copy.c)\n\
        target_link_libraries(shared squall::squall)\n\
        add_executable(static zero_copy.c)\n\
        target_link_libraries(static squall::squall-static)\n\
        add_executable(wrapped hello.cpp)\n\
        target_compile_features(wrapped PRIVATE cxx_std_17)\n\
        target_link_libraries(wrapped squall::squall)\n";
    fs::write(at.join("CMakeLists.txt"), lists).unwrap();
    for file in ["zero_copy.c", "hello.cpp"] {
        fs::copy(root("c_examples").join(file), at.join(file)).unwrap();
    }
    let found = format!("-DCMAKE_PREFIX_PATH={}", prefix().display());
    run(command("cmake").args(["-S", ".", "-B", "out", &found]).current_dir(&at));
    run(command("cmake").args(["--build", "out"]).current_dir(&at));
    for program in ["shared", "static"] {
        run(command(at.join("out").join(program)).arg(format!("cmake-{}", std::process::id())));
    }
    members(&at.join("out/wrapped"), "cmake-wrapped", 2);
}

// ---- the header ---------------------------------------------------------------------------------

#[test]
fn the_header_stands_alone() {
    let at = fresh("header");
    let write = |name: &str, text: &str| {
        fs::write(at.join(name), text).unwrap();
        at.join(name)
    };
    let twice = "#include <squall.h>\n#include <squall.h>\n";
    let c = write("alone.c", &format!("{twice}int unused(void);\n"));
    let cpp = write("alone.cpp", &format!("{twice}int unused();\n"));
    let twice = twice.replace(".h>", ".hpp>");
    let hpp = write("wrapper.cpp", &format!("{twice}int unused();\n"));
    let strict = |compiler: &str, standard: &str, source: &Path, more: &[&str]| {
        let mut check = command(compiler);
        check.args(STRICT).args(["-Wconversion", "-Wsign-conversion", "-Wshadow", "-fsyntax-only"]);
        check.args(more).arg(format!("-std={standard}")).args(["-isystem", "."]);
        run(check.arg("-I").arg(prefix().join("include")).arg(source));
    };
    for compiler in compilers(["gcc", "clang"]) {
        for standard in ["c99", "c11", "c17"] {
            let of_c = ["-Wstrict-prototypes", "-Wmissing-prototypes", "-Wc++-compat"];
            strict(compiler, standard, &c, &of_c);
        }
    }
    for compiler in compilers(["g++", "clang++"]) {
        for standard in ["c++11", "c++17", "c++20"] {
            strict(compiler, standard, &cpp, &[]);
        }
        for standard in ["c++17", "c++20"] {
            strict(compiler, standard, &hpp, &[]);
        }
    }
}

#[test]
fn the_header_is_generated_from_the_sources() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("header");
    fs::create_dir_all(&target).unwrap();
    let fresh = target.join("squall.h");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["check", "--lib", "--no-default-features", "--features", "header"]);
    cargo.arg("--target-dir").arg(&target).env("SQUALL_HEADER_OUT", &fresh).current_dir(ROOT);
    run(&mut cargo);
    let output = command("diff").arg("-u").arg(root("include/squall.h")).arg(&fresh).output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "include/squall.h is out of date: cargo build --lib --features header\n{}",
        text(&output)
    );
}

// ---- the binary interface -----------------------------------------------------------------------

/// A struct of the header: its name, and the types and names of its fields.
struct Struct {
    name: String,
    fields: Vec<(String, String)>,
}

/// The header without comments and preprocessor lines, in one line per declaration.
fn declarations(header: &str) -> Vec<String> {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        code.push_str(before);
        rest = after.split_once("*/").expect("comments end").1;
    }
    code.push_str(rest);
    let lines = code.lines().map(|line| line.split("//").next().unwrap().trim_end());
    let lines = lines.filter(|line| !line.starts_with('#') && !line.ends_with('\\'));
    let lines = lines.filter(|line| *line != "extern \"C\" {" && *line != "}");
    let code = lines.filter(|line| !line.starts_with("  ((")).collect::<Vec<_>>().join(" ");
    let (mut all, mut depth, mut now) = (Vec::new(), 0, String::new());
    for word in code.split_whitespace() {
        depth += word.matches('{').count();
        depth -= word.matches('}').count();
        if !now.is_empty() {
            now.push(' ');
        }
        now.push_str(word);
        if depth == 0 && word.ends_with(';') {
            all.push(std::mem::take(&mut now));
        }
    }
    all
}

fn structs(declarations: &[String]) -> Vec<Struct> {
    let bodies = declarations.iter().filter_map(|text| text.strip_prefix("typedef struct "));
    let parsed = bodies.map(|text| {
        let (name, rest) = text.split_once(" { ").expect("a body");
        let body = rest.rsplit_once('}').expect("a body's end").0;
        let fields = body.split(';').map(str::trim).filter(|field| !field.is_empty());
        let field = |field: &str| {
            let at = field.rfind([' ', '*']).expect("a type and a name") + 1;
            (field[..at].trim().replace(" *", "*"), field[at..].to_string())
        };
        Struct { name: name.into(), fields: fields.map(field).collect() }
    });
    parsed.collect()
}

/// A C program that prints sizes, offsets and numbers.
fn measuring_program(header: &str, structs: &[Struct]) -> String {
    let mut code = String::from(
        "#include <squall.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{\n",
    );
    for Struct { name, fields } in structs {
        let _ = writeln!(code, "  printf(\"struct {name} %zu\\n\", sizeof({name}));");
        for (kind, field) in fields {
            let _ = writeln!(
                code,
                "  printf(\"  %3zu %2zu {kind} {field}\\n\", offsetof({name}, {field}), \
                 sizeof((({name} *)0)->{field}));"
            );
        }
    }
    // Constants: one-word #defines with a number, and the enumerators.
    let mut names: Vec<&str> = Vec::new();
    for line in header.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["#define", name, value] if value.parse::<i64>().is_ok() => names.push(name),
            [name, "=", _] if name.starts_with("SQUALL_") => names.push(name),
            _ => {}
        }
    }
    for name in names.iter().filter(|name| !name.starts_with("SQUALL_VERSION")) {
        let _ = writeln!(code, "  printf(\"constant {name} %d\\n\", (int){name});");
    }
    code + "  return 0;\n}\n"
}

#[test]
fn the_binary_interface_is_the_one_of_the_list() {
    let at = fresh("abi");
    let header = fs::read_to_string(root("include/squall.h")).unwrap();
    let declarations = declarations(&header);
    let structs = structs(&declarations);
    assert!(structs.len() >= 6, "the header's structs are not understood");
    let mut found = String::from(
        "# What compiled programs rely on; rewritten by UPDATE=1 cargo test --test capi binary.\n\
         # Lines may be added (with a field at the end of a struct, its size grows); none may\n\
         # change or go while the soname stays.\n",
    );
    let library = prefix().join("lib/libsquall.so");
    let mut nm = command("nm");
    nm.args(["-D", "--defined-only", "--with-symbol-versions"]).arg(library);
    let symbols = run(&mut nm);
    let symbols = symbols.lines().filter_map(|line| line.split(' ').nth(2));
    for symbol in symbols.filter(|symbol| symbol.contains("@@")) {
        let _ = writeln!(found, "symbol {symbol}");
    }
    let prototypes = declarations.iter().filter(|text| !text.contains('{'));
    let prototypes: BTreeSet<String> = prototypes
        .map(|text| match text.strip_prefix("typedef ") {
            Some(kind) => format!("type {kind}\n"),
            None => format!("function {text}\n"),
        })
        .collect();
    found.extend(prototypes);
    fs::write(at.join("abi.c"), measuring_program(&header, &structs)).unwrap();
    compile("cc", &["-std=c11"], &at.join("abi.c"), "squall", &at.join("abi"));
    found.push_str(&run(&mut command(at.join("abi"))));

    let listed = root("ci/abi.txt");
    if std::env::var_os("UPDATE").is_some() {
        return fs::write(listed, found).unwrap();
    }
    fs::write(at.join("abi.txt"), found).unwrap();
    let output = command("diff").arg("-u").arg(listed).arg(at.join("abi.txt")).output().unwrap();
    let why = "the binary interface has changed; if that is meant, UPDATE=1 and say so in the \
        commit (Abi: +squall_…)";
    assert!(output.status.success(), "{why}\n{}", text(&output));
}

/// By function of the header: its comment, and those of the functions that it says it answers as.
fn comments(header: &str) -> BTreeMap<&str, String> {
    let mut own = BTreeMap::new();
    for (comment, code) in header.split("/**").filter_map(|part| part.split_once("*/")) {
        let prototype = code.split(';').next().unwrap_or("");
        let name = prototype.split('(').next().unwrap_or("").rsplit([' ', '*']).next().unwrap();
        if name.starts_with("squall_") && prototype.contains('(') {
            own.insert(name, comment);
        }
    }
    let mut all = BTreeMap::new();
    for (name, comment) in &own {
        let mut text = comment.to_string();
        let mut seen = vec![*name];
        while let Some(other) = own.keys().find(|other| {
            !seen.contains(other) && text.to_lowercase().contains(&format!("as `{other}`"))
        }) {
            seen.push(other);
            text.push_str(own[other]);
        }
        all.insert(*name, text);
    }
    all
}

/// What the C program has seen functions answer: (function, status).
fn answers(program: &str) -> BTreeSet<(&str, &str)> {
    let checks = ["IS(squall_", "SAYS(squall_"].into_iter();
    let mut all = BTreeSet::new();
    for rest in checks.flat_map(|check| program.split(check).skip(1)) {
        let mut depth = 0;
        let end = rest.char_indices().find(|(_, letter)| {
            depth += i32::from(*letter == '(') - i32::from(*letter == ')');
            *letter == ')' && depth == 0
        });
        let Some((end, _)) = end else { continue };
        let name = rest.split('(').next().unwrap();
        let after = rest[end + 1..].trim_start_matches([',', ' ', '\n']);
        let status = after.split(|c: char| c != '_' && !c.is_ascii_alphanumeric()).next().unwrap();
        all.insert((name, status));
    }
    all
}

/// Of many statuses the comments said nothing.
#[test]
fn what_functions_answer_is_in_their_comments() {
    let header = fs::read_to_string(root("include/squall.h")).unwrap();
    let program = fs::read_to_string(root("ci/capi.c")).unwrap();
    let (comments, mut compared) = (comments(&header), 0);
    for (name, status) in answers(&program) {
        let is_one = header.contains(&format!("{status} = -")) && status.starts_with("SQUALL_");
        let Some(comment) = comments.get(&*format!("squall_{name}")).filter(|_| is_one) else {
            continue;
        };
        assert!(comment.contains(status), "squall_{name} answers {status}, and does not say so");
        compared += 1;
    }
    assert!(compared > 30, "the C program's checks are not understood: {compared}");
    for (name, comment) in comments.iter().filter(|(_, text)| text.contains("@return")) {
        let handle = header.contains(&format!("{name}(squall_group_t group"));
        for status in ["SQUALL_NO_HANDLE", "SQUALL_CLOSED"].iter().filter(|_| handle) {
            assert!(comment.contains(status), "{name} answers {status}, and does not say so");
        }
    }
}

// ---- the programs -------------------------------------------------------------------------------

#[test]
fn every_example_compiles_everywhere() {
    let at = fresh("compiled");
    for example in examples() {
        let source = root("c_examples").join(format!("{example}.c"));
        let lines = fs::read_to_string(&source).unwrap().lines().count();
        let most = if example == "kv" { 260 } else { 60 }; // one to start from, not to read at once
        assert!(lines <= most, "{example}.c has {lines} lines; it may have {most}");
        for compiler in compilers(["gcc", "clang"]) {
            let options = [&STRICT[..], &["-std=c11"]].concat();
            compile(compiler, &options, &source, "squall", &at.join(&example));
        }
        for compiler in compilers(["g++", "clang++"]) {
            let options = [&STRICT[..], &["-std=c++17", "-x", "c++"]].concat();
            compile(compiler, &options, &source, "squall", &at.join(&example));
        }
    }
    for compiler in compilers(["g++", "clang++"]) {
        for standard in ["-std=c++17", "-std=c++20"] {
            let options = [&STRICT[..], &["-Wconversion", standard]].concat();
            let source = root("c_examples/hello.cpp");
            compile(compiler, &options, &source, "squall", &at.join("hello++"));
        }
    }
}

/// What a newcomer reads first is a program, and does what is said of it.
#[test]
fn the_program_of_the_readme_runs() {
    let at = fresh("readme");
    let readme = fs::read_to_string(root("README.md")).unwrap();
    let text = readme.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let name = format!("readme-{}", std::process::id());
    let (source, program) = (at.join("demo.c"), at.join("demo"));
    fs::write(&source, text.replace("\"demo\"", &format!("\"{name}\""))).unwrap();
    compile("cc", &[&STRICT[..], &["-std=c11"]].concat(), &source, "squall", &program);
    let start = |rank| {
        let mut member = command(&program);
        member.arg(rank).stdout(Stdio::piped()).spawn().unwrap()
    };
    let started = ["0", "1", "2"].map(start);
    let said = started.map(|member| {
        let output = member.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    });
    let order = String::from_utf8_lossy(&said[0]);
    assert!(order.lines().count() == 3 && said.iter().all(|one| *one == said[0]), "{order}");
}

#[test]
fn every_example_runs_shared_and_static() {
    let at = fresh("run");
    for package in ["squall", "squall-static"] {
        let program = |name: &str| at.join(format!("{name}-{package}"));
        for example in examples() {
            let source = root("c_examples").join(format!("{example}.c"));
            compile("cc", &["-std=c11"], &source, package, &program(&example));
            let loads = run(command("ldd").arg(program(&example)));
            assert_eq!(loads.contains("libsquall"), package == "squall", "{loads}");
        }
        let cpp = root("c_examples/hello.cpp");
        compile("c++", &["-std=c++17"], &cpp, package, &program("hello++"));

        for name in ["hello", "hello++"] {
            let group = format!("{}-{package}", name.replace("++", "pp"));
            let said = members(&program(name), &group, 3);
            assert_eq!(said[0].lines().count(), 3, "{said:?}");
            assert!(said.iter().all(|text| *text == said[0]), "not one order: {said:?}");
        }
        let said = members(&program("own_thread"), &format!("own-{package}"), 2);
        assert!(said.iter().all(|text| text.starts_with("20000 messages heard")), "{said:?}");
        let said = members(&program("epoll"), &format!("epoll-{package}"), 2);
        assert!(said[0] == said[1] && said[0].lines().count() == 10, "{said:?}");
        let own = |name: &str| format!("{name}-{package}-{}", std::process::id());
        let said = run(command(program("order")).args([own("order"), "20000".into()]));
        assert_eq!(said.matches("all agree").count(), 3, "{said}");
        let said = run(command(program("failover")).arg(own("failover")));
        let hash =
            |seat: &str| said.split(&format!("seat {seat}: hash ")).nth(1)?.split(',').next();
        assert!(hash("0").is_some() && hash("0") == hash("2"), "{said}");
        assert!(said.contains("seat 1 is gone") && hash("1").is_none(), "{said}");
        hosts::one_file_for_all(&program("hosts"), &own("hosts"));
        let said = run(command(program("memory")).arg(own("memory")));
        assert!(said.contains("word 42, first ab, last ab"), "{said}");
        let said = run(command(program("zero_copy")).arg(own("copy")));
        assert!(said.contains("head, body and tail"), "{said}");
        a_store_is_replicated(&program("kv"), &own("kv"));

        // What goes wrong is said, with the remedy, and is no success.
        let output = command(program("hello")).args(["a/b", "0", "1"]).output().unwrap();
        assert!(!output.status.success() && text(&output).contains("letters"), "{output:?}");
    }
}

/// A member of the key-value store, and what it has said.
struct Keeper(Child, std::io::Lines<std::io::BufReader<std::process::ChildStdout>>);

impl Keeper {
    fn start(program: &Path, group: &str, rank: &str) -> Keeper {
        let mut keeper = command(program);
        keeper.args([group, rank, "2"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = keeper.spawn().unwrap();
        let said = std::io::BufReader::new(keeper.stdout.take().unwrap());
        Keeper(keeper, std::io::BufRead::lines(said))
    }

    fn tell(&mut self, lines: &str) {
        self.0.stdin.as_ref().unwrap().write_all(lines.as_bytes()).unwrap();
    }

    /// The next line that contains that.
    fn hear(&mut self, what: &str) -> String {
        self.1.by_ref().map(Result::unwrap).find(|line| line.contains(what)).expect("it ended")
    }
}

/// Two members fill the store, a third one joins meanwhile, and all have the same.
fn a_store_is_replicated(program: &Path, group: &str) {
    let mut all: Vec<Keeper> =
        ["0", "1"].iter().map(|rank| Keeper::start(program, group, rank)).collect();
    all[0].tell(&(0..1000).map(|key| format!("key{key} one of {key}\n")).collect::<String>());
    all[1].hear(": 2 members");
    let mut keys = 0;
    while keys < 1000 {
        all[1].tell("?\n");
        let said = all[1].hear(" keys, ");
        keys = said.split(' ').next().unwrap().parse().unwrap();
    }
    all.push(Keeper::start(program, group, "join"));
    all[1].tell(&(500..1500).map(|key| format!("key{key} another\n")).collect::<String>());
    all[2].hear(": 3 members");
    all[2].tell("last of all\n-key7\n");
    let store = |keeper: &mut Keeper| {
        keeper.tell("?\n");
        keeper.hear(" keys, ").split(", 3 members").next().unwrap().to_string()
    };
    let whole = |said: &[String]| said.iter().all(|one| *one == said[0]);
    // There are as many before the last two changes as after them.
    let gone = |keeper: &mut Keeper| {
        keeper.tell("key7\n");
        keeper.hear("key7") == "key7 (none)"
    };
    loop {
        let last = all.iter_mut().all(gone);
        let said: Vec<String> = all.iter_mut().map(store).collect();
        if last && whole(&said) && said[0].starts_with("1500 keys, ") {
            break;
        }
    }
    all[2].tell("key8\nkey1499\n");
    assert_eq!(all[2].hear("key8"), "key8 one of 8");
    assert_eq!(all[2].hear("key1499"), "key1499 another");
    for mut keeper in all {
        drop(keeper.0.stdin.take());
        assert!(keeper.0.wait().unwrap().success());
    }
}

/// Runs a test program that prints `FAILED` lines.
#[track_caller]
fn black_box(command: &mut Command) {
    let output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}

fn valgrind(program: &Path) -> Option<Command> {
    if !have("valgrind") {
        skipped("memcheck", "valgrind is not installed");
        return None;
    }
    let mut valgrind = command("valgrind");
    valgrind.args(["-q", "--error-exitcode=9", "--leak-check=full", "--fair-sched=yes"]);
    valgrind.arg("--errors-for-leak-kinds=definite,indirect,possible").arg(program);
    Some(valgrind)
}

#[test]
fn the_door_holds() {
    let at = fresh("door");
    let source = root("ci/capi.c");
    let strict = ["-std=c11", "-g", "-Wconversion", "-Wstrict-prototypes"];
    let options = [&STRICT[..], &strict].concat();
    for compiler in compilers(["gcc", "clang"]) {
        for package in ["squall", "squall-static"] {
            let program = at.join(format!("capi-{compiler}-{package}"));
            compile(compiler, &options, &source, package, &program);
        }
    }
    let program = at.join("capi");
    compile("cc", &options, &source, "squall", &program);
    black_box(&mut command(&program));
    if let Some(mut valgrind) = valgrind(&program) {
        black_box(valgrind.env("CAPI_TRUSTS", "1")); // capi.c says why
    }
}

#[test]
fn the_door_holds_with_sanitizers() {
    let at = fresh("sanitized");
    let options = ["-std=c11", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    fs::write(at.join("probe.c"), "int main(void) { return 0; }\n").unwrap();
    let mut probe = command("cc");
    probe.args(options).arg(at.join("probe.c")).arg("-o").arg(at.join("probe"));
    if !probe.output().unwrap().status.success() {
        return skipped("the address sanitizer", "cc has none");
    }
    for package in ["squall", "squall-static"] {
        let program = at.join(package);
        compile("cc", &options, &root("ci/capi.c"), package, &program);
        black_box(&mut command(&program));
    }
}

#[test]
fn the_wrapper_holds() {
    let at = fresh("wrapper");
    for compiler in compilers(["g++", "clang++"]) {
        for standard in ["-std=c++17", "-std=c++20"] {
            let options = [&STRICT[..], &["-g", "-Wconversion", standard]].concat();
            compile(compiler, &options, &root("ci/wrapper.cpp"), "squall", &at.join("wrapper"));
            black_box(&mut command(at.join("wrapper")));
        }
    }
    if let Some(mut valgrind) = valgrind(&at.join("wrapper")) {
        black_box(&mut valgrind);
    }
}
