/// Which of a host's addresses are dialled: `AddressFamily` of `ssh_config(5)`.
package enum AddressFamily: String, Hashable, Sendable {
    case any
    case inet
    case inet6
}
