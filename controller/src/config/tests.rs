use super::*;

const LAB: &str = r#"
[network]
interface = "eth1"
address = "10.77.0.1"
[dhcp]
range_start = "10.77.0.100"
range_end = "10.77.0.200"
"#;

const PROXY: &str = r#"
[network]
interface = "eth1"
address = "10.77.0.1"
[dhcp]
mode = "proxy"
"#;

/// To follow `[dhcp]`.
const RELAYED: &str = r#"
[[dhcp.relayed]]
range_start = "10.78.0.100"
range_end = "10.78.0.200"
router = "10.78.0.1"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/lab.toml"), text)
}

#[test]
fn the_least_that_must_be_written_gives_the_documented_defaults() {
    let config = parse(LAB).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/metalcast"));
    assert_eq!(config.api.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.network.quic_port, 7777);
    let Dhcp::Server(server) = &config.dhcp else { panic!("{config:?}") };
    assert_eq!(server.lease, Duration::from_secs(3600));
    assert_eq!(server.router_solicitations, RouterSolicitations::Answered);
    assert_eq!(config.nodes.reenrol, Reenrol::Expected);
    let layout = config.layouts.iter().find(|layout| layout.name == "centmesh");
    assert_eq!(layout.unwrap().slots, 21);
    assert_eq!(config.report_url(), "http://10.77.0.1:80/report");
}

#[test]
fn what_is_shown_can_be_read_again() {
    let silent = format!("{LAB}[boot]\nanswer_router_solicitations = false\n");
    let relayed = format!("{LAB}{RELAYED}");
    let off = LAB.replace("[dhcp]", "[dhcp]\nmode = \"off\"");
    let projects = format!(
        "{LAB}[[projects]]\nname = \"lab\"\nquota_mib = 1000\n\
         [[projects]]\nname = \"web\"\npost_install = \"/srv/web\"\n"
    );
    let config = parse(&projects).unwrap();
    assert_eq!(config.quotas(), [("lab".to_owned(), 1000 << 20)].into());
    assert_eq!(config.projects["web"].post_install.as_deref(), Some(Path::new("/srv/web")));
    for text in [LAB.to_owned(), off, PROXY.to_owned(), silent, relayed, projects] {
        let config = parse(&text).unwrap();
        assert_eq!(parse(&config.to_string()).unwrap(), config);
    }
}

#[test]
fn router_solicitations_are_answered_unless_told_otherwise_and_only_beside_our_dhcp() {
    let text = |mode: &str, answer: bool| {
        let dhcp = format!("[dhcp]\nmode = \"{mode}\"");
        LAB.replace("[dhcp]", &dhcp) + &format!("[boot]\nanswer_router_solicitations = {answer}\n")
    };
    for (answer, meant) in
        [(true, RouterSolicitations::Answered), (false, RouterSolicitations::Ignored)]
    {
        let Dhcp::Server(server) = parse(&text("server", answer)).unwrap().dhcp else {
            panic!("a DHCP server")
        };
        assert_eq!(server.router_solicitations, meant);
    }
    assert_eq!(parse(&text("off", false)).unwrap().dhcp, Dhcp::Off);
    let proxy = |boot: &str| parse(&format!("{PROXY}{boot}")).unwrap().dhcp.router_solicitations();
    assert_eq!(proxy(""), RouterSolicitations::Answered);
    assert_eq!(
        proxy("[boot]\nanswer_router_solicitations = false\n"),
        RouterSolicitations::Ignored
    );
    let error = parse(&text("off", true)).unwrap_err().to_string();
    assert!(error.contains("boot.answer_router_solicitations: needs dhcp.mode"), "{error}");
}

#[test]
fn relayed_subnets_are_checked_like_ours_and_against_each_other() {
    let Dhcp::Server(server) = parse(&format!("{LAB}{RELAYED}")).unwrap().dhcp else { panic!() };
    let [subnet] = &server.relayed[..] else { panic!("{server:?}") };
    assert_eq!((subnet.prefix_len, subnet.router), (24, Some(Ipv4Addr::new(10, 78, 0, 1))));
    let check = |text: &str, parts: [&str; 2]| {
        let error = parse(&format!("{LAB}{text}")).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} are not in {error:?}");
    };
    let with = |from: &str, to: &str| RELAYED.replace(from, to);
    check(
        &with("10.78.0.200", "10.79.0.200"),
        ["dhcp.relayed[0].range_end", "not in 10.78.0.0/24"],
    );
    check(&with("10.78.0.1\"", "10.78.0.150\""), ["dhcp.relayed[0].router", "range"]);
    check(&with("router", "gateway"), ["unknown field", "gateway"]);
    check(&with("router", "prefix_len = 33\nrouter"), ["dhcp.relayed[0].prefix_len", "8 to 30"]);
    check(&with("10.78.", "10.77."), ["dhcp.relayed[0]", "overlaps that of 10.77.0.100"]);
    check(&RELAYED.repeat(2), ["dhcp.relayed[1]", "overlaps that of 10.78.0.100"]);
    let large = with("10.78.0.200", "10.78.255.254").replace("10.78.0.100", "10.78.0.2");
    check(&large.replace("router", "prefix_len = 16\nrouter"), ["dhcp.relayed[0]", "65536"]);
    check(&RELAYED.repeat(65), ["dhcp.relayed", "at most 64"]);
    let error = parse(&format!("{PROXY}{RELAYED}")).unwrap_err().to_string();
    assert!(error.contains("dhcp.relayed: a proxy gives no addresses"), "{error}");
}

#[test]
fn mistakes_are_named_with_file_and_key() {
    let check = |from: &str, to: &str, parts: &[&str]| {
        let text = LAB.replace(from, to);
        assert_ne!(text, LAB);
        let error = parse(&text).unwrap_err().to_string();
        for part in ["/etc/lab.toml", parts[0], parts[1]] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    };
    check("interface", "interfase", &["interfase", "unknown field"]);
    check("address = \"10.77.0.1\"", "", &["network", "missing field `address`"]);
    check("10.77.0.100", "10.78.0.100", &["dhcp.range_start", "not in 10.77.0.0/24"]);
    check("10.77.0.200", "10.77.0.50", &["dhcp.range_end", "below"]);
    check("10.77.0.200", "10.77.0.255", &["dhcp.range_end", "broadcast"]);
    check("10.77.0.1\"", "10.77.0.150\"", &["dhcp.range_start", "our own address"]);
    check("10.77.0.1\"", "0.0.0.0\"", &["network.address", "not an address of one host"]);
    check("range_start = \"10.77.0.100\"", "", &["dhcp.range_start", "mode = \"proxy\""]);
    check("[dhcp]", "[dhcp]\nmode = \"proxy\"", &["dhcp.range_start", "proxy gives no addresses"]);
    check("[dhcp]", "[dhcp]\nprefix_len = 31", &["dhcp.prefix_len", "8 to 30"]);
    check("[dhcp]", "[dhcp]\nrouter = \"10.77.0.120\"", &["dhcp.router", "range"]);
    check("[dhcp]", "[dhcp]\nlease_seconds = 5", &["dhcp.lease_seconds", "60"]);
    check("[dhcp]", "http_port = 0\n[dhcp]", &["network.http_port", "1 to 65535"]);
    check("[dhcp]", "tftp_port = 7777\n[dhcp]", &["network.quic_port", "same UDP port"]);
    check("eth1", "a-name-that-is-too-long", &["network.interface", "eth1"]);
    let top = "\n[network]\n";
    let with = |line: &str| format!("\n{line}\n[network]\n");
    check(top, &with("state_dir = \"var\""), &["state_dir", "absolute"]);
    let long = format!("[api]\nsocket = \"/{}\"", "s".repeat(107));
    check(top, &with(&long), &["api.socket", "107"]);
    check(top, &with("[nodes]\ndefault_layout = \"x\""), &["nodes.default_layout", "centmesh"]);
    check(top, &with("[nodes]\nname_prefix = \"No de\""), &["nodes.name_prefix", "a-z"]);
    let layout = |name, slots| {
        format!(
            "[[layouts]]\nname=\"{name}\"\nboot_mib=64\nswap_mib=64\nreserve_mib=0\nslots={slots}\nslot_mib=512\n"
        )
    };
    check(top, &with(&layout("centmesh", 0)), &["layouts[0]", "slots"]);
    let twice = layout("centmesh", 1).repeat(2);
    check(top, &with(&twice), &["layouts[1].name", "twice"]);
}

#[test]
fn a_file_that_is_not_there_says_what_to_do() {
    let error = Config::load(Path::new("/nonexistent/metalcast.toml")).unwrap_err();
    assert!(error.to_string().contains("--config"), "{error}");
}

#[test]
fn what_is_set_for_projects_must_be_able_to_be() {
    let project =
        |name: &str, quota: &str| format!("[[projects]]\nname = \"{name}\"\nquota_mib = {quota}\n");
    for (text, key) in [
        (project("Lab", "1"), "projects[0].name"),
        (project("lab/x", "1"), "projects[0].name"),
        (project("lab", "1") + &project("lab", "2"), "projects[1].name"),
        (project("lab", "9223372036854775807"), "projects[0].quota_mib"),
        (project("lab", "0"), "quota_mib"),
        (project("lab", "1\npost_install = \"here\""), "projects[0].post_install"),
    ] {
        let error = parse(&format!("{LAB}{text}")).unwrap_err();
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(error.contains(key), "{text}: {error}");
    }
}
