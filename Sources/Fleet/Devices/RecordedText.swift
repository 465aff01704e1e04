package import MeshIdentity
package import Platform

/// A value that stands as text in a device's record.
package protocol RecordText: Hashable, Sendable, CustomStringConvertible {
    init(recorded text: String) throws
}

extension SPIFFEID: RecordText {
    package init(recorded text: String) throws { try self.init(text) }
}

extension Authority: RecordText {
    package init(recorded text: String) throws { try self.init(parsing: text) }
}

/// Text in the record, a value everywhere else: it is parsed once, where the record is read.
@propertyWrapper
package struct Recorded<Value: RecordText>: Hashable, Sendable, Codable {
    package var wrappedValue: Value

    package init(wrappedValue: Value) { self.wrappedValue = wrappedValue }

    package init(from decoder: any Decoder) throws {
        wrappedValue = try Value(recorded: try decoder.singleValueContainer().decode(String.self))
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(wrappedValue.description)
    }
}

/// The same for a list.
@propertyWrapper
package struct RecordedList<Value: RecordText>: Hashable, Sendable, Codable {
    package var wrappedValue: [Value]

    package init(wrappedValue: [Value]) { self.wrappedValue = wrappedValue }

    package init(from decoder: any Decoder) throws {
        wrappedValue = try decoder.singleValueContainer().decode([String].self).map { try Value(recorded: $0) }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(wrappedValue.map(\.description))
    }
}
