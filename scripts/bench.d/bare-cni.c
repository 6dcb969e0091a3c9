/*
 * The floor under a CNI plugin's ADD and DEL: one program that does for one fixed network what the kernel has to do
 * anyway, and nothing else. No JSON, no checks, no undo, no masquerading, no port mappings: not a plugin.
 *
 *   CNI_COMMAND=ADD|DEL CNI_CONTAINERID=... CNI_NETNS=... CNI_IFNAME=... bare-cni DIRECTORY v4|dual
 *
 * ADD takes the next address under a lock in DIRECTORY, makes the veth pair by one message (the node's end up and a port
 * of the bridge, the pod's end in the pod) and configures the pod's end by one batch. DEL deletes the node's end and the
 * lease. The first ADD makes the bridge.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BRIDGE "cni0"
#define MTU 1450

static void die(const char *what) {
    fprintf(stderr, "bare-cni: %s: %s\n", what, strerror(errno));
    _exit(125);
}
#define MUST(call) ((call) == -1 ? die(#call) : (void)0)

/* A batch of messages, and the one being written. */
static char batch[4096];
static size_t used;
static int messages;
static struct nlmsghdr *message;

static void *put(const void *data, size_t size) {
    void *at = batch + used;
    if (data)
        memcpy(at, data, size);
    used += NLMSG_ALIGN(size);
    message->nlmsg_len = (uint32_t)(batch + used - (char *)message);
    return at;
}
static void begin(int type, int flags, const void *header, size_t size) {
    message = (struct nlmsghdr *)(batch + used);
    used += sizeof *message;
    *message = (struct nlmsghdr){
        .nlmsg_type = (uint16_t)type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags), .nlmsg_seq = (uint32_t)++messages};
    put(header, size);
}
static struct rtattr *attribute(int type, const void *data, size_t size) {
    struct rtattr *at = put(&(struct rtattr){.rta_type = (uint16_t)type, .rta_len = (uint16_t)RTA_LENGTH(size)}, sizeof(struct rtattr));
    if (size)
        put(data, size);
    return at;
}
static void number(int type, uint32_t value) { attribute(type, &value, sizeof value); }
static void text(int type, const char *value) { attribute(type, value, strlen(value) + 1); }
static void end(struct rtattr *nest) { nest->rta_len = (uint16_t)(batch + used - (char *)nest); }

static void send_batch(int fd, int may_exist) {
    char answer[16384];
    MUST(send(fd, batch, used, 0));
    for (int left = messages; left > 0;) {
        ssize_t size = recv(fd, answer, sizeof answer, 0);
        MUST(size);
        for (struct nlmsghdr *each = (void *)answer; NLMSG_OK(each, size); each = NLMSG_NEXT(each, size)) {
            errno = -((struct nlmsgerr *)NLMSG_DATA(each))->error;
            if (errno && !(may_exist && errno == EEXIST))
                die("netlink");
            left--;
        }
    }
    used = 0, messages = 0;
}
static int route_socket(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    MUST(fd);
    return fd;
}

static void add_address(unsigned index, int family, const void *address, size_t size, uint8_t prefix) {
    struct ifaddrmsg header = {.ifa_family = (uint8_t)family, .ifa_prefixlen = prefix, .ifa_flags = IFA_F_NODAD, .ifa_index = index};
    begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
    attribute(IFA_LOCAL, address, size);
    attribute(IFA_ADDRESS, address, size);
}
static void add_default_route(unsigned index, int family, const void *gateway, size_t size) {
    struct rtmsg header = {.rtm_family = (uint8_t)family, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_UNICAST};
    begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
    attribute(RTA_GATEWAY, gateway, size);
    number(RTA_OIF, index);
}
static void set_up(unsigned index) {
    struct ifinfomsg header = {.ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(RTM_NEWLINK, 0, &header, sizeof header);
}

static unsigned make_bridge(int fd, int dual) {
    static const uint8_t mac[6] = {0x0a, 0x58, 10, 1, 0, 1}, v4[4] = {10, 1, 0, 1}, v6[16] = {0xfd, 1, [15] = 1};
    struct ifinfomsg header = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
    text(IFLA_IFNAME, BRIDGE);
    attribute(IFLA_ADDRESS, mac, sizeof mac);
    number(IFLA_MTU, MTU);
    struct rtattr *info = attribute(IFLA_LINKINFO, NULL, 0);
    text(IFLA_INFO_KIND, "bridge");
    end(info);
    send_batch(fd, 1);
    unsigned index = if_nametoindex(BRIDGE);
    add_address(index, AF_INET, v4, sizeof v4, 16);
    if (dual)
        add_address(index, AF_INET6, v6, sizeof v6, 64);
    send_batch(fd, 1);
    return index;
}

/* One message: both ends. */
static void make_pair(int fd, unsigned bridge, const char *name, const char *ifname, int netns, const uint8_t mac[6]) {
    struct ifinfomsg header = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer_header = {0};
    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
    text(IFLA_IFNAME, name);
    number(IFLA_MTU, MTU);
    number(IFLA_MASTER, bridge);
    struct rtattr *info = attribute(IFLA_LINKINFO, NULL, 0);
    text(IFLA_INFO_KIND, "veth");
    struct rtattr *data = attribute(IFLA_INFO_DATA, NULL, 0), *peer = attribute(VETH_INFO_PEER, NULL, 0);
    put(&peer_header, sizeof peer_header);
    text(IFLA_IFNAME, ifname);
    number(IFLA_MTU, MTU);
    attribute(IFLA_ADDRESS, mac, 6);
    number(IFLA_NET_NS_FD, (uint32_t)netns);
    end(peer), end(data), end(info);
    send_batch(fd, 0);
}

static void configure_pod(const char *ifname, const uint8_t v4[4], int dual) {
    static const uint8_t gateway4[4] = {10, 1, 0, 1}, gateway6[16] = {0xfd, 1, [15] = 1};
    uint8_t v6[16] = {0xfd, 1, [14] = v4[2], [15] = v4[3]};
    unsigned index = if_nametoindex(ifname);
    set_up(index);
    add_address(index, AF_INET, v4, 4, 16);
    add_default_route(index, AF_INET, gateway4, 4);
    if (dual) {
        add_address(index, AF_INET6, v6, 16, 64);
        add_default_route(index, AF_INET6, gateway6, 16);
    }
    send_batch(route_socket(), 0);
}

static void lease(const char *id, uint8_t address[4]) {
    unsigned last = 1;
    char line[16] = "";
    int lock = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(lock);
    MUST(flock(lock, LOCK_EX));
    if (read(lock, line, sizeof line - 1) > 0)
        last = (unsigned)atoi(line);
    last++;
    MUST(pwrite(lock, line, (size_t)sprintf(line, "%u", last), 0));
    memcpy(address, (uint8_t[]){10, 1, (uint8_t)(last >> 8), (uint8_t)last}, 4);
    int file = open(id, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(file);
    MUST(write(file, line, (size_t)sprintf(line, "%u.%u.%u.%u", address[0], address[1], address[2], address[3])));
    close(lock);
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    if (!value)
        errno = EINVAL, die(name);
    return value;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return fprintf(stderr, "usage: bare-cni DIRECTORY v4|dual\n"), 2;
    const char *id = variable("CNI_CONTAINERID"), *ifname = variable("CNI_IFNAME");
    int dual = strcmp(argv[2], "dual") == 0, fd = route_socket();
    char name[IFNAMSIZ];
    unsigned hash = 2166136261u;
    for (const char *each = id; *each; each++)
        hash = (hash ^ (uint8_t)*each) * 16777619u;
    snprintf(name, sizeof name, "veth%08x", hash);
    MUST(chdir(argv[1]));
    if (strcmp(variable("CNI_COMMAND"), "DEL") == 0) {
        struct ifinfomsg header = {0};
        begin(RTM_DELLINK, 0, &header, sizeof header);
        text(IFLA_IFNAME, name);
        send_batch(fd, 0);
        MUST(unlink(id));
        return 0;
    }
    uint8_t v4[4];
    lease(id, v4);
    uint8_t mac[6] = {0x0a, 0x58, v4[0], v4[1], v4[2], v4[3]};
    int netns = open(variable("CNI_NETNS"), O_RDONLY | O_CLOEXEC);
    MUST(netns);
    unsigned bridge = if_nametoindex(BRIDGE);
    if (!bridge)
        bridge = make_bridge(fd, dual);
    make_pair(fd, bridge, name, ifname, netns, mac);
    MUST(setns(netns, CLONE_NEWNET));
    configure_pod(ifname, v4, dual);
    printf("{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"%u.%u.%u.%u/16\"}]}\n", v4[0], v4[1], v4[2], v4[3]);
    return 0;
}
