import Glibc
import Platform

/// Where the operator's files are: `$BOOTSTRAP_HOME`, or `~/.bootstrap`.
enum Home {
    static var path: String {
        if let value = getenv("BOOTSTRAP_HOME"), value.pointee != 0 { return String(cString: value) }
        return "\(user)/.bootstrap"
    }

    /// The embedded CA's directory.
    static var ca: String { "\(path)/ca" }

    /// The user's home directory.
    static var user: String { LocalAccount.homeDirectory }
}

extension Home {
    /// What was enrolled, issued and revoked.
    static var ledger: String { "\(path)/ledger.sqlite" }

    /// What can be made again: compressed forms of the agent.
    static var cache: String { "\(path)/cache" }

    /// Where devices reach the issuer that was installed: `host:port`, or `*:port` for this machine as they see it.
    static var issuerAddress: String { "\(path)/issuer.address" }

    /// Where earlier releases had one record for each device; the ledger takes them over.
    static var devices: String { "\(path)/devices" }
}
