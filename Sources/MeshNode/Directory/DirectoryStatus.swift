import MeshDirectory
import Platform

/// What a node can say of its directory.
struct DirectoryStatus: Sendable {
    /// When it was last heard of, in seconds since 1970; nil: not since the start.
    var heardAt: Int64?
    /// What is wrong now; nil: nothing.
    var problem: String?
    /// Changes that were taken.
    var changes: UInt64 = 0
    /// Changes that were refused.
    var refused: UInt64 = 0

    func write(_ directory: DirectoryInForce?, _ settings: DirectorySettings?, into json: inout JSONWriter) {
        json.object { json in
            json.key("source")
            json.string(settings?.description ?? "none")
            if let directory {
                json.key("revision")
                json.number(directory.revision)
                json.key("signedAt")
                json.string(describe(time: directory.manifest.time))
                json.key("age")
                json.number(max(0, WallClock.system.seconds - directory.manifest.time))
                json.key("endpoints")
                json.number(directory.content.endpointCount)
                json.key("policies")
                json.number(directory.content.policies.count)
                json.key("bundles")
                json.number(directory.content.bundles.count)
            }
            if let heardAt {
                json.key("heardAt")
                json.string(describe(time: heardAt))
            }
            if let problem {
                json.key("problem")
                json.string(problem)
            }
            json.key("changes")
            json.number(Int64(clamping: changes))
            json.key("refused")
            json.number(Int64(clamping: refused))
        }
    }
}
