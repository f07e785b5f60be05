// SPDX-License-Identifier: MIT OR Apache-2.0
//! The example `hosts`, on two hosts that are network namespaces: the same file on both, and for who
//! joins.

use super::net::{Net, skipped};
use super::{command, fresh, text};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Any that is random enough.
const SECRET: &str = "9b1e7d0c3a5f42688e6f7a1b2c3d4e5f60718293a4b5c6d7e8f9012a3b4c5d6e\n";

/// The file that the example asks for, and its secret.
fn settings(group: &str, fabric: &str, founders: &[String]) -> PathBuf {
    let at = fresh(&format!("hosts-{group}"));
    let (file, secret) = (at.join("squall.toml"), at.join("demo.secret"));
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "group = \"{group}\"\nmembers = {}\nfabric = \"{fabric}\"\nnetwork.founders = {founders:?}\n\
         network.secret_file = {secret:?}\n",
        founders.len()
    );
    fs::write(&file, text).unwrap();
    file
}

fn start(mut member: Command) -> Child {
    member.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Two members say and hear the same, in one order.
fn they_agree(members: [Child; 2]) {
    let ended = members.map(|member| member.wait_with_output().unwrap());
    for output in &ended {
        assert!(output.status.success(), "{}", text(output));
    }
    let said = ended.map(|output| text(&output));
    assert!(said[0] == said[1] && said[0].lines().count() == 2, "{said:?}");
}

/// In namespaces where this machine has them, and over loopback.
pub fn one_file_for_all(program: &Path, group: &str) {
    // Each listens where the file says that it is called.
    let ports = [0; 2].map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let founders: Vec<String> =
        ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    drop(ports);
    let file = settings(&format!("{group}-lo"), "tcp", &founders);
    let ranks = ["0", "1"];
    they_agree(ranks.map(|rank| {
        let mut member = command(program);
        member.arg(&file).env("SQUALL_RANK", rank);
        start(member)
    }));

    let wrong = file.with_file_name("wrong.toml");
    fs::write(&wrong, "group = \"g\"\n\n[network]\nfonders = []\n").unwrap();
    let output = command(program).arg(&wrong).output().unwrap();
    let said = text(&output);
    let named = said.contains("wrong.toml:4") && said.contains("did you mean `network.founders`");
    assert!(!output.status.success() && named, "{said}");

    let Some(net) = Net::new(2) else {
        let _ = writeln!(std::io::stderr(), "{}", skipped());
        return;
    };
    let hosts = net.hosts();
    let founders: Vec<String> =
        hosts.iter().map(|(_, address)| format!("{address}:7471")).collect();
    let file = settings(&format!("{group}-ns"), "auto", &founders);
    let mut members = hosts.iter().zip(ranks).map(|((namespace, _), rank)| {
        let mut member = command("ip");
        member.args(["netns", "exec", namespace]).arg(program).arg(&file).arg(rank);
        start(member)
    });
    they_agree([(); 2].map(|()| members.next().unwrap()));
}
