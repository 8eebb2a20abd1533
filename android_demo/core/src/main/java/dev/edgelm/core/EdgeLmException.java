package dev.edgelm.core;

/**
 * An error the developer or user of an app can mend: what is wrong, what would have been accepted, and what to do next.
 *
 * <p>It is the only exception that bad files and bad arguments raise; {@code EdgeLMError} is its Python counterpart.
 */
public final class EdgeLmException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final String what;
    private final String allowed;
    private final String fix;

    /**
     * An error without a next step.
     *
     * @param what one sentence that says what is wrong and where, with the value that was met
     */
    public EdgeLmException(String what) {
        this(what, "", "", null);
    }

    /**
     * An error with what would have been accepted.
     *
     * @param what one sentence that says what is wrong and where, with the value that was met
     * @param allowed what would have been accepted
     */
    public EdgeLmException(String what, String allowed) {
        this(what, allowed, "", null);
    }

    /**
     * An error with all its parts.
     *
     * @param what one sentence that says what is wrong and where, with the value that was met
     * @param allowed what would have been accepted; empty when that is plain from {@code what}
     * @param fix the next command or edit; empty when there is none
     * @param cause the exception behind it, or null
     */
    public EdgeLmException(String what, String allowed, String fix, Throwable cause) {
        super(message(what, allowed, fix), cause);
        this.what = what;
        this.allowed = allowed;
        this.fix = fix;
    }

    /**
     * What is wrong.
     *
     * @return one sentence
     */
    public String what() {
        return what;
    }

    /**
     * What would have been accepted.
     *
     * @return a list or range; empty when plain from {@link #what()}
     */
    public String allowed() {
        return allowed;
    }

    /**
     * What to do next.
     *
     * @return a command or edit; empty when there is none
     */
    public String fix() {
        return fix;
    }

    private static String message(String what, String allowed, String fix) {
        return what + (allowed.isEmpty() ? "" : "\n  allowed: " + allowed) + (fix.isEmpty() ? "" : "\n  next: " + fix);
    }
}
