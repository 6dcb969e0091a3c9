//! Device rules in systemd's terms (`DeviceAllow=`, systemd.resource-control(5)).

use super::{Kind, Rules};

impl Rules {
    /// What a unit may be allowed so that all is that the rules allow: devices with their access; `None` when that is
    /// everything.
    ///
    /// systemd knows no exceptions from what is allowed, so it can be more than the rules allow. With cgroup v2 that
    /// matters not, as a device must pass our own program as well; with v1 an exception is lost when systemd sets the
    /// rules anew.
    pub(crate) fn allow_list(&self) -> Option<Vec<(String, String)>> {
        let mut list = Vec::new();
        for rule in self.all().into_iter().filter(|rule| rule.allow) {
            let word = match rule.kind? {
                Kind::Block => "block",
                Kind::Character => "char",
            };
            let which = match (rule.major, rule.minor) {
                (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
                (Some(major), None) => format!("{word}-{major}"),
                (None, _) => format!("{word}-*"),
            };
            list.push((which, rule.access.to_string()));
        }
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(json: Value) -> Option<Vec<String>> {
        let rules = Rules::parse(&serde_json::from_value::<Vec<_>>(json).expect("rules")).expect("rules");
        Some(rules.allow_list()?.into_iter().map(|(which, access)| format!("{which} {access}")).collect())
    }

    #[test]
    fn a_unit_is_allowed_all_that_the_rules_allow() {
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "r"},
            {"allow": true, "type": "c", "major": 10, "access": "rw"},
            {"allow": true, "type": "c", "minor": 3, "access": "w"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]);
        let list = list(rules).expect("not everything");
        assert_eq!(list[..3], ["/dev/block/8:1 r", "char-10 rw", "char-* w"]);
        assert!(
            ["char-* m", "block-* m", "/dev/char/1:3 rwm", "char-136 rwm"]
                .iter()
                .all(|it| list.contains(&(*it).to_owned())),
            "{list:?}"
        );
    }

    #[test]
    fn once_everything_is_allowed_exceptions_are_none_of_systemds() {
        assert_eq!(list(json!([{"allow": true, "access": "rwm"}, {"allow": false, "type": "b", "access": "w"}])), None);
    }
}
