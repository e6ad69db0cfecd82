"""What to do instead of a program that is often asked for."""

from __future__ import annotations

from sessiond.policy.names import names

ALTERNATIVES: dict[str, str] = {
    **dict.fromkeys(("bash", "sh", "dash", "zsh"), "send the shell text itself as the command's text"),
    "env": "set variables through the command's env",
    "timeout": "use the command's own timeout",
    "nohup": "start the command; it outlives the connection",
    "setsid": "every command has a session of its own",
    **dict.fromkeys(("sudo", "su", "doas", "runuser"), "commands run without privileges, and need none"),
    **dict.fromkeys(
        names("curl wget nc ncat netcat socat ssh scp sftp rsync ftp telnet ping dig nslookup host"),
        "sandboxes have no network; bring what is needed into the workspace",
    ),
    **dict.fromkeys(
        ("apt", "apt-get", "yum", "dnf", "apk", "brew", "npx", "pipx", "uvx"), "put what is needed into the image"
    ),
    **dict.fromkeys(("vim", "vi", "nano", "emacs", "ed", "ex"), "change files with sed -i or a script"),
    **dict.fromkeys(("less", "more", "man"), "use cat, head, or --help"),
    **dict.fromkeys(("perl", "ruby", "php", "lua"), "use python3 with a script of the workspace"),
    "parallel": "use xargs -P, or a loop",
    "watch": "run the command again when it is needed",
    "dd": "use head -c, or cp",
    "source": "set variables through the command's env",
    "tee": "read the output from the command, or redirect it into a file",
    "xargs": "name the files, or use a script",
}
