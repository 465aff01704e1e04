/// The fields of a message, in their order, as they were written. Names are compared without case (RFC 9110 §5.1).
package struct HTTPFields: Hashable, Sendable {
    package struct Field: Hashable, Sendable {
        package var name: String
        /// Bytes, since RFC 9110 gives those above 127 no meaning.
        package var value: [UInt8]

        package var text: String { String(decoding: value, as: UTF8.self) }

        package init(name: String, value: [UInt8]) { (self.name, self.value) = (name, value) }
    }

    package var all: [Field] = []

    package init() {}

    package mutating func append(_ name: String, _ value: String) {
        all.append(Field(name: name, value: Array(value.utf8)))
    }

    /// The values of every field `name`, which is in lower case.
    package func values(_ name: String) -> [String] {
        all.compactMap { Self.isSame($0.name, name) ? $0.text : nil }
    }

    package func first(_ name: String) -> String? {
        all.first { Self.isSame($0.name, name) }?.text
    }

    package func contains(_ name: String) -> Bool { all.contains { Self.isSame($0.name, name) } }

    /// The elements of the comma-separated lists in every field `name`, in ASCII's lower case. A comma is a byte: with
    /// a mark beside it, it is another character to Swift, but not to the next reader.
    package func list(_ name: String) -> [String] {
        all.filter { Self.isSame($0.name, name) }.flatMap { field in
            field.value.split(separator: UInt8(ascii: ",")).map { element in
                String(decoding: element.filter { $0 != 0x20 && $0 != 0x09 }.map(Self.lowercased), as: UTF8.self)
            }
        }
    }

    package mutating func remove(_ name: String) { all.removeAll { Self.isSame($0.name, name) } }

    package mutating func replace(_ name: String, _ value: String) {
        remove(String(decoding: name.utf8.map(Self.lowercased), as: UTF8.self))
        append(name, value)
    }

    /// Compares names, codings and other tokens.
    ///
    /// - Parameter lowercase: Is in lower case.
    package static func isSame(_ name: String, _ lowercase: String) -> Bool {
        name.utf8.count == lowercase.utf8.count
            && zip(name.utf8, lowercase.utf8).allSatisfy { byte, other in lowercased(byte) == other }
    }

    /// HTTP compares without case in ASCII only. Unicode would make a `k` of U+212A, which another reader does not.
    private static func lowercased(_ byte: UInt8) -> UInt8 { (0x41...0x5A).contains(byte) ? byte | 0x20 : byte }

    /// As they go over the wire, without the empty line.
    package func write(to bytes: inout [UInt8]) {
        for field in all {
            bytes += field.name.utf8
            bytes += [UInt8(ascii: ":"), UInt8(ascii: " ")]
            bytes += field.value
            bytes += [13, 10]
        }
    }
}
