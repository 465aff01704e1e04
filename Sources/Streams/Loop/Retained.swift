/// Keeps an object alive that nobody else may be holding, until what it waits for has come: a callback, the last byte.
///
/// A member of that object, and so a cycle on purpose, which ``release()`` breaks. Must be released in the end, however
/// that comes about: put it beside the one place that calls back.
package struct Retained<Object: AnyObject> {
    private var object: Object?

    package init() {}

    package var isHeld: Bool { object != nil }

    package mutating func hold(_ object: Object) { self.object = object }

    /// The object may be gone when the caller's own reference to it goes.
    package mutating func release() { object = nil }
}
