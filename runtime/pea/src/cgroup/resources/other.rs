//! The smaller ones: pids, huge pages, network, RDMA, and what is said in cgroup v2's own words.

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma};

use super::Target;
use crate::cgroup::value::{Value, unsupported};
use crate::error::Error;
use crate::stats::CgroupVersion;

/// `linux.resources.pids`: below zero there is no limit. A group that may have none could not even hold the container's
/// init, so zero is one, as with runc and systemd.
pub fn pids(pids: &LinuxPids, target: Target<'_>) -> Result<Vec<Value>, Error> {
    const KEY: &str = "linux.resources.pids.limit";
    let limit = match pids.limit() {
        0 if !target.zero_is_a_limit => return Ok(Vec::new()),
        0 => "1".to_owned(),
        limit if limit < 0 => "max".to_owned(),
        limit => limit.to_string(),
    };
    let home = match target.home("pids", KEY) {
        // No controller, no limit.
        Err(_) if limit == "max" => return Ok(Vec::new()),
        home => home?,
    };
    Ok(vec![Value::new(KEY, &home.dir, "pids.max", limit)])
}

/// `linux.resources.hugepageLimits`: both of what is in use and of what is reserved, where the kernel counts that.
pub fn hugepages(limits: &[LinuxHugepageLimit], target: Target<'_>) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    for (index, entry) in limits.iter().enumerate() {
        let key = format!("linux.resources.hugepageLimits[{index}]");
        let size = entry.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::spec(format!("{key}.pageSize: {size:?} is not a size")));
        }
        let home = target.home("hugetlb", &key)?;
        let end = match home.version {
            CgroupVersion::V1 => "limit_in_bytes",
            CgroupVersion::V2 => "max",
        };
        let limit = entry.limit();
        values.push(Value::new(&*key, &home.dir, format!("hugetlb.{size}.{end}"), limit));
        values.push(Value::new(&*key, &home.dir, format!("hugetlb.{size}.rsvd.{end}"), limit).if_there());
    }
    Ok(values)
}

/// `linux.resources.network`
pub fn network(network: &LinuxNetwork, target: Target<'_>) -> Result<Vec<Value>, Error> {
    let mut values = Vec::new();
    // cgroup v2 has neither: programs attached to sockets do their work.
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        const KEY: &str = "linux.resources.network.classID";
        let home = target.home("net_cls", KEY)?;
        values.push(Value::new(KEY, &home.dir, "net_cls.classid", class));
    }
    for (index, entry) in network.priorities().iter().flatten().enumerate() {
        let key = format!("linux.resources.network.priorities[{index}]");
        let home = target.home("net_prio", &key)?;
        values.push(Value::new(key, &home.dir, "net_prio.ifpriomap", format!("{} {}", entry.name(), entry.priority())));
    }
    Ok(values)
}

/// `linux.resources.rdma`, by device.
pub fn rdma<'a>(
    devices: impl Iterator<Item = (&'a String, &'a LinuxRdma)>,
    target: Target<'_>,
) -> Result<Vec<Value>, Error> {
    let mut devices: Vec<_> = devices.collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    let mut values = Vec::new();
    for (name, limits) in devices {
        let key = format!("linux.resources.rdma.{name}");
        let home = target.home("rdma", &key)?;
        let handles = limits.hca_handles().map(|number| format!(" hca_handle={number}"));
        let objects = limits.hca_objects().map(|number| format!(" hca_object={number}"));
        if handles.is_none() && objects.is_none() {
            return Err(Error::spec(format!("{key}: neither hcaHandles nor hcaObjects is given")));
        }
        let text = format!("{name}{}{}", handles.unwrap_or_default(), objects.unwrap_or_default());
        values.push(Value::new(key, &home.dir, "rdma.max", text));
    }
    Ok(values)
}

/// `linux.resources.unified`: file and content, as they are.
pub fn unified<'a>(
    files: impl Iterator<Item = (&'a String, &'a String)>,
    target: Target<'_>,
) -> Result<Vec<Value>, Error> {
    const KEY: &str = "linux.resources.unified";
    let mut files: Vec<_> = files.collect();
    files.sort();
    let mut values = Vec::new();
    for (file, text) in files {
        let key = format!("{KEY}.{file}");
        let Some((controller, _)) = file.split_once('.').filter(|_| !file.contains('/')) else {
            let text = format!("{KEY}: the specified key has not the form CONTROLLER.VALUE `{file}`");
            return Err(Error::spec(text));
        };
        let Some(hierarchy) = target.layout.unified() else {
            return Err(unsupported(&key, "this machine has no cgroup v2"));
        };
        // The files of the core and of the freezer begin so, and are always there.
        let there = controller == "cgroup" || target.layout.unified_controllers().iter().any(|it| it == controller);
        if !there {
            let text =
                format!("the requested cgroup controller `{controller}` is not available (no such file or directory)");
            return Err(unsupported(&key, &text));
        }
        let late = controller == "cpu";
        let value = Value::new(key, &hierarchy.dir(target.path), &**file, text);
        values.push(if late { value.late() } else { value });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::testing::{plan, v1, v2};
    use crate::cgroup::hierarchy::Layout;

    #[test]
    fn limits_of_pids_have_special_numbers() {
        for (limit, expected) in [(7, "7"), (0, "1"), (-1, "max"), (-9, "max")] {
            let pids = json!({"pids": {"limit": limit}});
            assert_eq!(plan(&v2(), pids.clone()).expect("a plan"), [format!("pids.max={expected}")]);
            assert_eq!(plan(&v1(), pids).expect("a plan"), [format!("pids/pids.max={expected}")]);
        }
    }

    #[test]
    fn huge_pages_are_limited_in_use_and_in_reserve() {
        let limits = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]});
        assert_eq!(
            plan(&v1(), limits.clone()).expect("a plan"),
            ["hugetlb/hugetlb.2MB.limit_in_bytes=4096", "hugetlb/hugetlb.2MB.rsvd.limit_in_bytes=4096"]
        );
        assert_eq!(plan(&v2(), limits).expect("a plan"), ["hugetlb.2MB.max=4096", "hugetlb.2MB.rsvd.max=4096"]);
        let limits = json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 4096}]});
        assert!(plan(&v2(), limits).expect_err("a path").contains("hugepageLimits[0].pageSize"));
    }

    #[test]
    fn network_and_rdma() {
        let resources = json!({"network": {"classID": 5, "priorities": [{"name": "eth0", "priority": 3}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "a": {"hcaObjects": 1}}});
        assert_eq!(
            plan(&v1(), resources.clone()).expect("a plan"),
            [
                "net_cls/net_cls.classid=5",
                "net_prio/net_prio.ifpriomap=eth0 3",
                "rdma/rdma.max=a hca_object=1",
                "rdma/rdma.max=mlx5_1 hca_handle=3 hca_object=10000",
            ]
        );
        let error = plan(&v2(), resources).expect_err("no net_cls");
        assert_eq!(error, "linux.resources.network.classID: there is no net_cls cgroup controller");
    }

    #[test]
    fn what_is_said_in_v2s_own_words_comes_last_and_is_checked() {
        let resources = json!({"memory": {"limit": 4096}, "unified": {"memory.max": "8192", "cgroup.max.depth": "1"}});
        assert_eq!(
            plan(&v2(), resources).expect("a plan"),
            ["memory.max=4096", "cgroup.max.depth=1", "memory.max=8192"]
        );
        for (key, phrase) in
            [("foo.bar", "controller `foo` is not available"), ("nothing", "`nothing`"), ("a/b.c", "`a/b.c`")]
        {
            let error = plan(&v2(), json!({"unified": {key: "1"}})).expect_err(key);
            assert!(error.contains(phrase), "{error}");
        }
        plan(&v1(), json!({"unified": {"memory.max": "1"}})).expect_err("no unified hierarchy");
    }

    #[test]
    fn beside_v1_controllers_the_unified_hierarchys_are_used_too() {
        let hybrid = Layout::made_up(Path::new(""), &["memory", "pids"], Some(&["hugetlb"]));
        let resources = json!({"pids": {"limit": 5}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]});
        assert_eq!(
            plan(&hybrid, resources).expect("a plan"),
            ["pids/pids.max=5", "unified/hugetlb.2MB.max=0", "unified/hugetlb.2MB.rsvd.max=0"]
        );
        let error = plan(&hybrid, json!({"cpu": {"shares": 5}})).expect_err("no cpu");
        assert_eq!(error, "linux.resources.cpu.shares: there is no cpu cgroup controller");
    }
}
