# /etc/profile sets PATH anew in a login shell, which is what `ray up` starts its commands in.
export PATH="/opt/baton/bin:$PATH"
