import SSHSignal

/// Which service an order means on a device that may have one already. A value without I/O.
enum ServiceChoice: Hashable {
    /// Nothing was asked: what there is stays; nil when there is none.
    case present(ServiceKind?)
    /// This one, or an error.
    case one(ServiceKind)
    /// The first of these that can be had, else none.
    case firstOf([ServiceKind])
    /// No service: what there is goes.
    case noService
    /// A word of a later release.
    case unknown

    /// - Parameters:
    ///   - order: a ``ServiceKind``, `auto`, or nil.
    ///   - recorded: what there is; `none` where that was chosen.
    ///   - isKept: What was chosen before holds: nobody has said otherwise.
    init(_ order: String?, recorded: ServiceKind?, isKept: Bool = false) {
        switch order {
        case nil: self = .present(recorded)
        case ServiceKind.automatic where isKept && recorded == ServiceKind.none: self = .noService
        case ServiceKind.automatic:
            let first = [recorded].compactMap(\.self).filter { $0 != .none }
            self = .firstOf(first + ServiceKind.preferred.filter { $0 != recorded })
        case let word?:
            switch ServiceKind(rawValue: word) {
            case nil: self = .unknown
            case ServiceKind.none?: self = .noService
            case let kind?: self = .one(kind)
            }
        }
    }
}

extension ServiceKind {
    /// In the order in which they are tried.
    static let preferred: [ServiceKind] = [.systemd, .systemdUser, .openrc, .procd, .cron]

    /// How it is done on this machine; nil for ``none``.
    func service(_ description: ServiceDescription) -> (any DeviceService)? {
        switch self {
        case .systemd: SystemdService(description: description, isUser: false)
        case .systemdUser: SystemdService(description: description, isUser: true)
        case .openrc: OpenRCService(description: description)
        case .procd: ProcdService(description: description)
        case .cron: CronService(description: description)
        case .none: nil
        }
    }
}
