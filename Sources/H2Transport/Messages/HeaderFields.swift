/// One header field.
public struct HeaderField: Hashable, Sendable {
    /// Lower-case, as HTTP/2 has it (RFC 9113 §8.2).
    public var name: String
    /// As it was sent: no check but HTTP's own.
    public var value: String

    /// - Parameters:
    ///   - name: In lower case.
    ///   - value: Printable; line breaks are not allowed in HTTP.
    public init(name: String, value: String) {
        self.name = name
        self.value = value
    }
}

/// The header fields of a request or a response, without pseudo-header fields, in the order they were sent.
public struct HeaderFields: Hashable, Sendable, ExpressibleByDictionaryLiteral, RandomAccessCollection {
    private var fields: [HeaderField]

    /// None.
    public init() { fields = [] }

    /// Names must be lower-case.
    public init(dictionaryLiteral elements: (String, String)...) {
        fields = elements.map { HeaderField(name: $0.0, value: $0.1) }
    }

    public var startIndex: Int { fields.startIndex }
    public var endIndex: Int { fields.endIndex }
    public subscript(position: Int) -> HeaderField { fields[position] }

    /// The value of a field; the values of a repeated one joined by commas (RFC 9110 §5.3). Setting replaces all of
    /// them; nil removes the field. `name` must be lower-case.
    public subscript(name: String) -> String? {
        get {
            var result: String?
            // Nearly all names have another length, which is known; texts are compared by a call.
            let length = name.utf8.count
            for index in fields.indices where fields[index].name.utf8.count == length && fields[index].name == name {
                let value = fields[index].value
                result = result.map { "\($0),\(value)" } ?? value
            }
            return result
        }
        set {
            fields.removeAll { $0.name == name }
            if let newValue { append(name, newValue) }
        }
    }

    /// Adds a field. `name` must be lower-case.
    public mutating func append(_ name: String, _ value: String) {
        fields.append(HeaderField(name: name, value: value))
    }
}
