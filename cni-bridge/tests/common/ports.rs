//! Lists of `bridge` and `portmap`.

use serde_json::{Value, json};

use super::chain::{Chain, Whose};
use super::{Node, merge};

pub const TCP: u16 = 8080;

pub fn mapping(host_port: u16, protocol: &str) -> Value {
    json!({"hostPort": host_port, "containerPort": 80, "protocol": protocol})
}

/// `bridge` (both families, no masquerading) and `portmap` with these keys, with these mappings asked for.
pub fn chain(node: &Node, portmap: Value, mappings: &[Value]) -> Chain {
    let mut bridge = node.dual(json!({"type": "bridge"}));
    bridge.as_object_mut().unwrap().retain(|key, _| key != "cniVersion" && key != "name");
    let mut plugin = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    merge(&mut plugin, portmap);
    Chain::new(Whose::Ours, "1.1.0", vec![bridge, plugin]).offering(json!({"portMappings": mappings}))
}

pub fn sysctl(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap_or_else(|error| panic!("{key}: {error}"));
}

/// 2 is what ours writes, 1 what others do.
pub fn route_localnet() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/conf/br0/route_localnet").unwrap().trim().to_owned()
}
