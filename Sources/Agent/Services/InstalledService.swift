import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// The service of one installation: the one that there is, by the file `service` beside the node's, and how it is
/// changed.
struct InstalledService {
    /// A service that was set up.
    struct SetUp {
        var service: any DeviceService
        var isChanged: Bool
        var warnings: [String]
    }

    let description: ServiceDescription

    /// The kind and the name, a line each; `none` where somebody has chosen that, absent where none could be had.
    private var recordFile: String { "\(description.state)/service" }

    /// Which kind of service there is; nil for none, `none` where that was chosen.
    var recordedKind: ServiceKind? {
        guard let bytes = try? LocalFile.read(recordFile, limit: 4096) else { return nil }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").first.flatMap {
            ServiceKind(rawValue: String($0))
        }
    }

    /// Writes its definition; another kind that there was goes before.
    ///
    /// - Throws: why it cannot be had here.
    func install(_ kind: ServiceKind) throws(DeviceProgram.Failure) -> SetUp {
        guard let service = kind.service(description) else {
            throw DeviceProgram.Failure(message: "\(kind.rawValue) is no service")
        }
        guard description.isPlain else {
            throw DeviceProgram.Failure(
                message: "the path \(description.state) has characters that a service cannot have"
            )
        }
        if let obstacle = service.obstacle { throw DeviceProgram.Failure(message: obstacle, isAbsence: true) }
        if let recordedKind, recordedKind != kind { try remove() }
        let (isChanged, warnings) = try service.install()
        try record(kind)
        return SetUp(service: service, isChanged: isChanged, warnings: warnings)
    }

    private func record(_ kind: ServiceKind) throws(DeviceProgram.Failure) {
        do {
            try AtomicFile.write(Array("\(kind.rawValue)\n\(description.name)\n".utf8), to: recordFile, mode: 0o600)
        } catch {
            throw DeviceProgram.Failure(message: error.message)
        }
    }

    /// Takes away what there is, for one who has chosen to have none.
    func decline() throws(DeviceProgram.Failure) {
        try remove()
        try record(.none)
    }

    /// Takes away what there is.
    func remove() throws(DeviceProgram.Failure) {
        guard let kind = recordedKind, let service = kind.service(description) else { return }
        do throws(DeviceProgram.Failure) {
            try service.remove()
        } catch {
            throw DeviceProgram.Failure(
                message: "the service (\(kind.rawValue)) cannot be removed: \(error.message)"
            )
        }
        unlink(recordFile)
    }
}
