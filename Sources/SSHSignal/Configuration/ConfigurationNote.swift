/// A line of the configuration that is valid for `ssh` and has no effect here.
package struct ConfigurationNote: Hashable, Sendable, CustomStringConvertible {
    /// As it was written.
    package var keyword: String
    package var file: String?
    package var line: Int?
    /// Whether `ssh` would, because of it, reach another machine, trust other keys or offer other ones: worth telling
    /// the user at every connection.
    package var changesConnection: Bool
    /// Whether it is one of ``SSHClientConfiguration/limits``: only `ssh` itself can do what the line says.
    package var isForSSHOnly = false

    package var description: String {
        let place = file.map { file in line.map { "\(file):\($0): " } ?? "\(file): " } ?? ""
        return "\(place)\(keyword) is not supported and has no effect"
    }
}
